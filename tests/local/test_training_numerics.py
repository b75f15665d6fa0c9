"""The arithmetic of training: equal to a plain loop however samples are packed, dealt and stored,
and fp32 masters move where bf16 weights would stand still.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaForCausalLM, PreTrainedModel, get_cosine_schedule_with_warmup

from ray_jobs.steps import JobFailed
from ray_jobs.training import loop
from ray_jobs.training.attention import use_packed_attention
from ray_jobs.training.drivers import make_driver
from ray_jobs.training.examples import Samples
from ray_jobs.training.loop import Hooks, Progress
from ray_jobs.training.lora import merged
from ray_jobs.training.losses import ChunkedHead
from ray_jobs.training.objective import Objective
from ray_jobs.training.packing import Order, fill
from ray_jobs.training.settings import Train
from ray_jobs.training.torch_driver import TorchDriver
from tests.local.training_cases import cfg, make_model, make_samples, run

ROOT = Path(__file__).resolve().parents[2]
NUM_STEPS = 3  # of 10 samples, 4 a step


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small are slower on two threads than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plain_loop(given: Train, model: PreTrainedModel) -> tuple[list[float], dict[str, Tensor]]:
    """What any reader would write: transformers' own loss, a sample at a time."""
    samples = make_samples()
    order = Order(num_samples=10, batch_size=given.batch_size, epochs=given.epochs, seed=5)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=given.learning_rate,
        betas=given.betas,
        eps=given.epsilon,
        weight_decay=given.weight_decay,
    )
    num_warmup = math.ceil(given.warmup_ratio * order.num_steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup, order.num_steps)
    losses = []
    for step in range(order.num_steps):
        rows = [samples[int(index)] for index in order.group(step)]
        num_targets = sum(int(is_target.sum()) for _, is_target in rows)
        total = 0.0
        for tokens, is_target in rows:
            tokens_1T = torch.as_tensor(tokens.astype(np.int64))[None]
            labels_1T = torch.where(torch.as_tensor(is_target)[None], tokens_1T, -100)
            loss = model(input_ids=tokens_1T, labels=labels_1T, num_items_in_batch=num_targets).loss
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), given.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses, weights_of(model)


def far(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest distance of two tensors of a name, relative to the wanted one's norm."""
    assert found.keys() == wanted.keys()
    return max(float((found[name] - one).norm() / one.norm()) for name, one in wanted.items())


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's weights as they are now."""
    return {name: one.detach().clone() for name, one in model.named_parameters()}


def moved(found: dict[str, Tensor], start: dict[str, Tensor]) -> Tensor:
    """How far all weights came, as one vector."""
    return torch.cat(
        [(found[name].double() - one.double()).flatten() for name, one in start.items()]
    )


@pytest.fixture(scope="module")
def plain() -> tuple[list[float], dict[str, Tensor]]:
    return plain_loop(cfg(), make_model())


def gradients(
    given: Train, packs: list[list[int]], **model: Any
) -> tuple[float, dict[str, Tensor]]:
    """The loss of samples in packs, and its gradient."""
    objective = Objective(make_model(**model), given)
    losses = [objective(fill(make_samples(), np.array(one))) for one in packs]
    loss = torch.stack(losses).sum() / sum(int(make_samples()[k][1].sum()) for k in range(4))
    loss.backward()
    grads = {name: one.grad for name, one in objective.trained()}
    return loss.item(), {name: one for name, one in grads.items() if one is not None}


def gradients_of_transformers(num: int, **model: Any) -> tuple[float, dict[str, Tensor]]:
    """The same of the first samples, by transformers alone, one at a time."""
    theirs, samples, total = make_model(**model), make_samples(), 0.0
    num_targets = sum(int(samples[k][1].sum()) for k in range(num))
    for tokens, is_target in (samples[k] for k in range(num)):
        tokens_1T = torch.as_tensor(tokens.astype(np.int64))[None]
        labels_1T = torch.where(torch.as_tensor(is_target)[None], tokens_1T, -100)
        loss = theirs(input_ids=tokens_1T, labels=labels_1T, num_items_in_batch=num_targets).loss
        loss.backward()
        total += loss.item()
    return total, {
        name: one.grad for name, one in theirs.named_parameters() if one.grad is not None
    }


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("num_kv_heads", [1, 4])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "changes", [{}, {"activation_checkpointing": True, "loss_chunk_tokens": 3}]
)
def test_packed_samples_have_the_loss_and_gradient_that_transformers_gives_them_alone(
    family: str, num_kv_heads: int, tied: bool, changes: dict[str, Any]
) -> None:
    model = {"family": family, "num_kv_heads": num_kv_heads, "tied": tied}
    alone, alone_grads = gradients_of_transformers(4, **model)
    for packs in ([[0, 1, 2, 3]], [[2], [0, 3], [1]]):
        packed, packed_grads = gradients(cfg(**changes), packs, **model)
        assert packed == pytest.approx(alone, rel=1e-5)
        assert far(packed_grads, alone_grads) < 1e-5


def test_samples_that_could_see_one_another_would_not() -> None:
    objective = Objective(make_model(), cfg())
    pack = fill(make_samples(), np.array([0, 1, 2, 3]))
    apart = objective(pack).item()
    assert objective(replace(pack, lengths=(sum(pack.lengths),))).item() != pytest.approx(
        apart, rel=1e-3
    )


def test_attention_is_the_same_as_under_transformers_own_mask() -> None:
    pack = fill(make_samples(), np.array([0, 1, 2]))
    tokens_1T, positions_1T = (
        torch.as_tensor(some)[None] for some in (pack.tokens_T, pack.positions_T)
    )
    theirs = make_model()
    wanted = theirs(input_ids=tokens_1T, position_ids=positions_1T, use_cache=False).logits
    ours = make_model()
    use_packed_attention(ours, 64)
    found = ours(
        input_ids=tokens_1T,
        position_ids=positions_1T,
        use_cache=False,
        lengths=pack.lengths,
        ends=torch.tensor([0, *np.cumsum(pack.lengths)], dtype=torch.int32),
    ).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pack_tokens", [64, 128, 1024])
def test_a_run_equals_a_plain_transformers_loop_however_it_is_packed(
    pack_tokens: int, plain: tuple[list[float], dict[str, Tensor]]
) -> None:
    found = run({"cfg": {"pack_tokens": pack_tokens}})
    losses, weights = plain
    assert [one[0] for one in found["losses"]] == pytest.approx(losses, rel=1e-5)
    assert far(found["weights"], weights) < 1e-5
    start = weights_of(make_model())
    assert far(weights, start) > 1e-3, "else nothing was trained"


def test_a_trained_model_can_be_asked_at_once() -> None:
    given = replace(cfg(), epochs=1)
    trained = loop.train(make_model(), make_samples(), given, report=lambda _: None).driver.model
    tokens = torch.arange(1, 9)[None]
    assert trained.generate(tokens, max_new_tokens=2, do_sample=False).shape[1] > 8


def test_the_learning_rate_is_transformers_own() -> None:
    given = Train(learning_rate=6e-7, warmup_ratio=0.05)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=given.learning_rate)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(0.05 * 130), 130)
    for step in range(130):
        wanted = schedule.get_last_lr()[0]
        assert loop.learning_rate(step, 130, given) == pytest.approx(wanted, rel=1e-12, abs=1e-20)
        optimizer.step()
        schedule.step()


STAGES = range(4)
ONE_BY_ONE = {"pack_tokens": 64, "cutoff": 64}
SMALL = {"learning_rate": 6e-7, "warmup_ratio": 0.0, "max_grad_norm": 0.0, "weight_decay": 0.0}
SMALL |= {"precision": "bf16", "epochs": 7}  # 21 steps
CASES: dict[int, dict[str, dict[str, Any]]] = {
    2: {
        **{f"fp32-{stage}": {"cfg": {"zero_stage": stage}} for stage in STAGES},
        **{
            f"bf16-{stage}": {"cfg": {"zero_stage": stage, "precision": "bf16"}} for stage in STAGES
        },
        **{f"small-{stage}": {"cfg": {**SMALL, "zero_stage": stage}} for stage in STAGES},
        # A state that ZeRO 2 gave, and one that plain PyTorch gave.
        **{
            f"fp32-{stage} resumed": {"cfg": {"zero_stage": stage}, "resumed": "fp32-2"}
            for stage in STAGES
        },
        **{
            f"bf16-{stage} resumed": {
                "cfg": {"zero_stage": stage, "precision": "bf16"},
                "resumed": "bf16-0",
            }
            for stage in STAGES
        },
        # A pack a sample: 4 on one worker, 2 each on two.
        "one by one": {"cfg": ONE_BY_ONE},
        "checkpointed": {"cfg": {"zero_stage": 3, "activation_checkpointing": True}},
        "offloaded": {"cfg": {"zero_stage": 2, "offload": "optimizer"}},
        "untied": {"cfg": {"zero_stage": 3}, "model": {"tied": False}},
        "adapters": {"cfg": {"zero_stage": 2, "lora": {"rank": 4}}},
        **{
            f"spoilt {precision}-{stage}": {"cfg": {"zero_stage": stage, "precision": precision}}
            for stage in STAGES
            for precision in ("fp32", "bf16")
        },
    },
    3: {
        # Steps of 4, 4 and 2 samples: in the last one a worker has nothing.
        **{f"three on {stage}": {"cfg": {"zero_stage": stage}} for stage in STAGES},
        # No tensor's size is a multiple of 3: ZeRO 3 pads each.
        **{
            f"{given} resumed on three": {
                "cfg": {"zero_stage": 3, "precision": given[:4]},
                "resumed": given,
            }
            for given in ("fp32-3", "fp32-0", "bf16-0")
        },
        **{
            f"shared out {precision}": {"cfg": {"zero_stage": 3, "precision": precision}}
            for precision in ("fp32", "bf16")
        },
    },
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what several workers gave: <case>.pt."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "cases.json").write_text(json.dumps(CASES))
    command = [sys.executable, "-m", "tests.local.training_cases", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert not done.returncode, (done.stdout + done.stderr)[-6000:]
    return folder


@pytest.fixture(scope="module")
def by_workers(saved: Path) -> Callable[[str], dict[str, Any]]:
    """What several workers gave, by case."""

    def of(name: str) -> dict[str, Any]:
        found: dict[str, Any] = torch.load(saved / f"{name}.pt")
        return found

    return of


def test_one_worker_with_four_packs_equals_two_with_two_and_one_pack_of_four(
    by_workers: Callable[[str], dict[str, Any]], plain: tuple[list[float], dict[str, Tensor]]
) -> None:
    alone = run({"cfg": ONE_BY_ONE})
    whole = run({"cfg": {"pack_tokens": 1024}})
    pair = by_workers("one by one")
    for found in (alone, whole, pair):
        assert [one[0] for one in found["losses"]] == pytest.approx(plain[0], rel=1e-5)
        assert [one[2:] for one in found["losses"]] == [one[2:] for one in alone["losses"]]
        assert found["validation"] == [None, None, pytest.approx(alone["validation"][-1], rel=1e-5)]
        assert far(found["weights"], plain[1]) < 1e-5


@pytest.mark.parametrize(
    "name", ["fp32-0", "fp32-1", "fp32-2", "fp32-3", "checkpointed", "offloaded"]
)
def test_zero_0_to_3_on_by_workers_agree_with_the_plain_loop(
    name: str,
    by_workers: Callable[[str], dict[str, Any]],
    plain: tuple[list[float], dict[str, Tensor]],
) -> None:
    found = by_workers(name)
    assert [one[0] for one in found["losses"]] == pytest.approx(plain[0], rel=1e-5)
    assert found["losses"][0][1] == pytest.approx(run({})["losses"][0][1], rel=1e-5)  # the norm
    assert far(found["weights"], plain[1]) < 1e-5


def test_zero_3_trains_a_head_of_its_own_too(
    by_workers: Callable[[str], dict[str, Any]],
) -> None:
    wanted = plain_loop(cfg(), make_model(tied=False))[1]
    assert "lm_head.weight" in wanted
    assert far(by_workers("untied")["weights"], wanted) < 1e-5


def test_adapters_are_trained_under_zero_2_as_alone(
    by_workers: Callable[[str], dict[str, Any]],
) -> None:
    wanted = run({"cfg": {"lora": {"rank": 4}}})
    found = by_workers("adapters")
    assert [one[0] for one in found["losses"]] == pytest.approx(
        [one[0] for one in wanted["losses"]], rel=1e-5
    )
    pairs = [(found["weights"][name], one) for name, one in wanted["weights"].items()]
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in pairs)


def test_with_bf16_every_stage_moves_the_weights_alike_and_keeps_ropes_frequencies(
    by_workers: Callable[[str], dict[str, Any]],
) -> None:
    start = weights_of(make_model())
    wanted = moved(by_workers("bf16-0")["weights"], start)
    for stage in STAGES:
        found = by_workers(f"bf16-{stage}")
        assert cosine_similarity(moved(found["weights"], start), wanted, dim=0) > 0.999
        assert found["buffers"] == {"torch.float32"}


def test_at_6e7_every_stage_moves_bf16_models_by_their_fp32_masters(
    by_workers: Callable[[str], dict[str, Any]],
) -> None:
    start = weights_of(make_model())
    wanted = moved(run({"cfg": {**SMALL, "precision": "fp32"}})["weights"], start)
    for stage in STAGES:
        found = moved(by_workers(f"small-{stage}")["weights"], start)
        assert cosine_similarity(found, wanted, dim=0) > 0.99
        assert float(found.norm() / wanted.norm()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("stage", STAGES)
def test_a_state_is_resumed_under_any_stage_and_given_back_to_the_last_bit(
    stage: int, by_workers: Callable[[str], dict[str, Any]]
) -> None:
    for precision, given in (("fp32", "fp32-2"), ("bf16", "bf16-0")):
        again, whole = by_workers(f"{precision}-{stage} resumed"), by_workers(given)
        assert len(again["losses"]) == NUM_STEPS - 2
        assert all(again["same"])
        near = 1e-6 if precision == "fp32" else 1e-4
        assert again["losses"][-1][0] == pytest.approx(whole["losses"][-1][0], rel=near)
        assert far(again["weights"], whole["weights"]) < near


@pytest.mark.parametrize("given", ["fp32-3", "fp32-0", "bf16-0"])
def test_zero_3_is_resumed_where_its_parts_are_padded(
    given: str, by_workers: Callable[[str], dict[str, Any]]
) -> None:
    again, whole = by_workers(f"{given} resumed on three"), by_workers(given)
    assert all(again["same"])
    # Three workers have other packs than two: of bf16 other roundings.
    near = 1e-5 if given[:4] == "fp32" else 1e-2
    assert again["losses"][-1][0] == pytest.approx(whole["losses"][-1][0], rel=near)
    assert far(again["weights"], whole["weights"]) < near


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_zero_3_shares_out_a_model_that_is_never_whole_on_a_card_and_rounds_no_master(
    precision: str, by_workers: Callable[[str], dict[str, Any]]
) -> None:
    state = by_workers(f"shared out {precision}")["state"]
    wanted = weights_of(make_model())
    assert len(state) == 3 * len(wanted)  # with two moments
    assert all(torch.equal(state[f"weight/{name}"], one) for name, one in wanted.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_gradient_that_is_not_finite_moves_nothing_and_is_forgotten(
    stage: int, precision: str, by_workers: Callable[[str], dict[str, Any]]
) -> None:
    found = by_workers(f"spoilt {precision}-{stage}")
    assert [math.isfinite(norm) for norm in found["norms"]] == [False, True]
    assert all(found["same"].values())
    assert not any(
        same for name, same in found["same after a sound one"].items() if "weight/" in name
    )


@pytest.mark.parametrize("given", ["fp32-2", "fp32-3", "bf16-1"])
def test_a_state_of_by_workers_is_resumed_on_one(
    given: str, saved: Path, by_workers: Callable[[str], dict[str, Any]]
) -> None:
    whole = by_workers(given)
    found = run({"cfg": {"precision": given[:4]}}, resumed=saved / f"{given}.pt")
    assert all(found["same"])
    near = 1e-6 if given[:4] == "fp32" else 1e-4
    assert found["losses"][-1][0] == pytest.approx(whole["losses"][-1][0], rel=near)
    assert far(found["weights"], whole["weights"]) < near


def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(tmp_path: Path) -> None:
    case = {"cfg": {"epochs": 2}}
    whole = run(case)
    torch.save(whole, tmp_path / "saved.pt")
    again = run(case, resumed=tmp_path / "saved.pt")
    assert again["losses"] == whole["losses"][2:]
    assert all(torch.equal(again["weights"][name], one) for name, one in whole["weights"].items())
    assert run(case)["losses"] == whole["losses"]


class Given(Objective):
    """An objective whose gradient is what the test says, whatever the weights are."""

    def forward(self, pack: Any) -> Tensor:
        return torch.stack([(one * pack[name]).sum().float() for name, one in self.trained()]).sum()


def given_gradients(num: int) -> Iterator[dict[str, Tensor]]:
    """Gradients of a few true steps, noise and all, in bf16's values so that all get the same."""
    torch.manual_seed(1)
    drift = {name: torch.randn_like(one) for name, one in make_model().named_parameters()}
    for _ in range(num):
        yield {name: (one + torch.randn_like(one)).bfloat16() * 1e-3 for name, one in drift.items()}


def update_of(given: Train, num: int = 20) -> Tensor:
    """How far a model's weights come in so many steps at 6e-7 with the same gradients."""
    model = make_model()
    start = weights_of(model)
    driver = TorchDriver(Given(model, given), given, world_size=1, device="cpu")
    for grads in given_gradients(num):
        driver.add(grads, 0.5, is_last=False)  # type: ignore[arg-type]
        driver.add(grads, 0.5, is_last=True)  # type: ignore[arg-type]
        driver.step(6e-7)
    return moved(dict(driver.weights()), start)


def update_in_pure_bf16() -> Tensor:
    """The same with weights that are bf16 themselves."""
    model = make_model(dtype=torch.bfloat16)
    start = weights_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-7, weight_decay=0)
    for grads in given_gradients(20):
        for name, one in model.named_parameters():
            one.grad = grads[name].clone()
        optimizer.step()
    return moved(weights_of(model), start)


def test_at_6e7_bf16_with_fp32_masters_moves_as_fp32_does_and_pure_bf16_does_not() -> None:
    plain = {"max_grad_norm": 0.0, "weight_decay": 0.0}
    wanted = update_of(cfg(**plain))
    masters = update_of(cfg(precision="bf16", **plain))
    summed = update_of(cfg(precision="bf16", grad_accum_dtype="bf16", **plain))
    assert wanted.norm() > 0
    for found in (masters, summed):
        assert cosine_similarity(found, wanted, dim=0) > 0.99
        assert float(found.norm() / wanted.norm()) == pytest.approx(1, abs=0.01)
    assert cosine_similarity(update_in_pure_bf16(), wanted, dim=0) < 0.99


def test_what_50_accumulated_micro_batches_cost_in_bf16_and_in_fp32(
    capsys: pytest.CaptureFixture[str],
) -> None:
    samples = make_samples(50, seed=3)

    def gradient(precision: str, summed_in: str, packs: list[list[int]]) -> Tensor:
        given = cfg(precision=precision, grad_accum_dtype=summed_in, max_grad_norm=0.0)
        driver = make_driver(make_model(), given, world_size=1, device="cpu")
        for place, one in enumerate(packs):
            pack = fill(samples, np.array(one))
            driver.add(pack, 1 / samples.num_targets, is_last=place == len(packs) - 1)
        driver.step(0.0)
        # After one step the first moment is a tenth of the gradient.
        state = dict(driver.state())
        return torch.cat([one.flatten() for name, one in state.items() if "exp_avg/" in name])

    whole, apart = [list(range(50))], [[k] for k in range(50)]
    exact = gradient("fp32", "fp32", whole)
    error = {
        "fp32, 50 micro-batches": gradient("fp32", "fp32", apart),
        "bf16, one batch": gradient("bf16", "fp32", whole),
        "bf16, 50 micro-batches summed in fp32": gradient("bf16", "fp32", apart),
        "bf16, 50 micro-batches summed in bf16": gradient("bf16", "bf16", apart),
    }
    far_off = {name: float((one - exact).norm() / exact.norm()) for name, one in error.items()}
    with capsys.disabled():
        for name, one in far_off.items():
            print(
                f"\n  gradient's relative distance to fp32 in one batch: {one:.2e} ({name})", end=""
            )
    first, _, in_fp32, in_bf16 = far_off.values()
    assert first < 1e-5
    assert in_fp32 < in_bf16 < 0.05


class Largest(TorchDispatchMode):
    """The most elements that any tensor had which was computed inside."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.numel())
        return out


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_chunked_loss_and_its_gradient_are_those_of_the_whole(
    chunk: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    hidden_NC = torch.randn(130, 16, dtype=dtype, requires_grad=True)
    weight_VC = nn.Parameter(torch.randn(50, 16, dtype=dtype))
    targets_N = torch.randint(0, 50, (130,))
    loss = ChunkedHead(weight_VC, chunk)(hidden_NC, targets_N)
    (loss * 0.3).backward()
    assert hidden_NC.grad is not None
    assert weight_VC.grad is not None
    found = (loss.detach(), hidden_NC.grad.clone(), weight_VC.grad.clone())
    hidden_NC.grad = weight_VC.grad = None
    logits_NV = (hidden_NC @ weight_VC.T).float()
    whole = cross_entropy(logits_NV, targets_N, reduction="sum")
    (whole * 0.3).backward()
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.03, "atol": 0.05}
    wanted = (whole.detach(), hidden_NC.grad, weight_VC.grad)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **near)


def test_the_logits_are_never_whole() -> None:
    hidden_NC = torch.randn(512, 16, requires_grad=True)
    weight_VC = nn.Parameter(torch.randn(1000, 16))
    targets_N = torch.randint(0, 1000, (512,))
    kept: list[int] = []

    def count(one: Tensor) -> Tensor:
        kept.append(one.numel())
        return one

    with (
        Largest() as largest,
        torch.autograd.graph.saved_tensors_hooks(count, lambda one: one),
    ):
        ChunkedHead(weight_VC, 32)(hidden_NC, targets_N).backward()
    assert largest.elements <= 32 * 1000
    assert max(kept, default=0) <= 32 * 1000
    with Largest() as whole:
        cross_entropy(hidden_NC @ weight_VC.T, targets_N).backward()
    assert whole.elements == 512 * 1000, "else the measure sees nothing"


def test_a_pack_without_targets_moves_nothing() -> None:
    objective = Objective(make_model(), cfg())
    loss = objective(fill(make_samples(), np.zeros(0, np.int64)))
    loss.backward()
    assert loss.item() == 0
    assert all(one.grad is not None and not one.grad.any() for _, one in objective.trained())


def test_more_workers_than_samples_change_nothing(
    plain: tuple[list[float], dict[str, Tensor]], by_workers: Callable[[str], dict[str, Any]]
) -> None:
    for stage in STAGES:
        found = by_workers(f"three on {stage}")
        assert [one[0] for one in found["losses"]] == pytest.approx(plain[0], rel=1e-5)
        assert far(found["weights"], plain[1]) < 1e-5


def test_a_run_stops_saves_and_says_where_it_is() -> None:
    told: list[Progress] = []
    saved: list[int] = []
    hooks = Hooks(
        save=lambda driver, progress: saved.append(progress.step),
        stop=lambda progress: progress.step == 4,
    )
    given = cfg(epochs=3, checkpoint=replace(Train().checkpoint, every_steps=3))
    trained = loop.train(make_model(), make_samples(), given, report=told.append, hooks=hooks)
    assert trained.stopped
    assert [one.step for one in told] == [1, 2, 3, 4]
    assert saved == [3, 4]
    assert told[-1] == trained.last
    assert (told[-1].epoch, told[-1].num_steps) == (pytest.approx(4 / 3), 9)
    assert sum(one.tokens for one in told[:3]) == len(make_samples().tokens)
    assert sum(one.target_tokens for one in told[:3]) == make_samples().num_targets
    assert all(one.seconds > 0 and one.grad_norm > 0 for one in told)


def test_a_loss_that_is_no_number_ends_the_run_with_what_to_do() -> None:
    model = make_model()
    with torch.no_grad():
        model.get_parameter("model.norm.weight").fill_(float("nan"))
    with pytest.raises(JobFailed, match=r"loss is nan at step 1: lower train\.learning_rate"):
        loop.train(model, make_samples(), cfg(), report=lambda progress: None)


def test_without_samples_there_is_one_clear_line() -> None:
    nothing = make_samples().take([])
    with pytest.raises(ValueError, match=r"train\.data: there is no sample"):
        loop.train(make_model(), nothing, cfg(), report=lambda progress: None)


def test_a_model_whose_head_or_attention_we_do_not_compute_is_refused() -> None:
    capped, windowed, sliding = make_model(), make_model(), make_model(family="mistral")
    capped.config.final_logit_softcapping = 30.0
    windowed.config.layer_types = ["sliding_attention", "full_attention"]
    windowed.config.sliding_window = 32
    sliding.config.sliding_window = 32
    refused = {"final_logit_softcapping": capped, "llama.*sliding_attention": windowed}
    refused["mistral.*sliding_attention"] = sliding
    for told, model in refused.items():
        with pytest.raises(ValueError, match=rf"train\.base: .*{told}"):
            Objective(model, cfg())


LORA = {"rank": 4, "alpha": 8.0, "targets": ("q_proj", "down_proj"), "dropout": 0.1}


def test_adapters_alone_are_trained_the_same_at_every_run_and_merge_into_the_model() -> None:
    case = {"cfg": {"lora": LORA, "learning_rate": 0.05}}
    first, second = run(case), run(case)
    assert first["losses"] == second["losses"], "dropout must be seeded by the step"
    assert all("lora" in name for name in first["weights"])
    assert len(first["weights"]) == 2 * 2 * 2  # two matrices, two layers, two targets
    given = cfg(**case["cfg"])
    trained = loop.train(make_model(), make_samples(), given, report=lambda progress: None)
    model = trained.driver.model.eval()
    tokens = torch.arange(20)[None]
    asked: dict[str, Any] = {
        "input_ids": tokens,
        "use_cache": False,
        "lengths": (20,),
        "ends": torch.tensor([0, 20], dtype=torch.int32),
    }
    with torch.no_grad():
        before, wanted = make_model()(tokens).logits, model(**asked).logits
        plain = merged(model)
        assert type(plain) is LlamaForCausalLM
        torch.testing.assert_close(plain(**asked).logits, wanted, rtol=1e-4, atol=1e-4)
    assert float((wanted - before).abs().max()) > 0.01
    assert {name for name, _ in plain.named_parameters()} == {
        name for name, _ in make_model().named_parameters()
    }


def test_moments_in_8_bits_move_the_weights_as_fp32_ones_do_and_resume_exactly(
    tmp_path: Path,
) -> None:
    pytest.importorskip("bitsandbytes")
    start = weights_of(make_model())
    case = {"cfg": {"optimizer": "adamw_8bit"}}
    found, wanted = run(case), run({})
    cosine = cosine_similarity(
        moved(found["weights"], start), moved(wanted["weights"], start), dim=0
    )
    assert cosine > 0.99
    torch.save(found, tmp_path / "saved.pt")
    again = run(case, resumed=tmp_path / "saved.pt")
    assert again["losses"] == found["losses"][2:]
    assert all(torch.equal(again["weights"][name], one) for name, one in found["weights"].items())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ValueError, match=r"train\.optimizer: adamw_8bit needs the package"):
        run({"cfg": {"optimizer": "adamw_8bit"}})


def test_samples_are_not_changed_by_a_run() -> None:
    samples = make_samples()
    loop.train(make_model(), samples, cfg(), report=lambda progress: None)
    wanted: Samples = make_samples()
    assert np.array_equal(samples.tokens, wanted.tokens)
    assert np.array_equal(samples.is_target, wanted.is_target)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes",
    [{}, {"activation_checkpointing": True}, {"liger": True, "gpus_per_worker": 1.0}],
    ids=["plain", "checkpointed", "liger"],
)
def test_on_a_card_bf16_has_the_gradient_of_fp32_on_cpu(changes: dict[str, Any]) -> None:
    samples, group = make_samples(), list(range(8))

    def gradient(given: Train, device: str) -> Tensor:
        driver = make_driver(make_model(), given, world_size=1, device=device)
        driver.add(fill(samples, np.array(group)), 1e-2, is_last=True)
        driver.step(0.0)
        state = dict(driver.state())
        return torch.cat([one.flatten() for name, one in state.items() if "exp_avg/" in name])

    wanted = gradient(cfg(max_grad_norm=0.0), "cpu")
    found = gradient(cfg(max_grad_norm=0.0, precision="bf16", **changes), "cuda")
    assert cosine_similarity(found, wanted, dim=0) > 0.999
