"""A recipe's file as plain data, and its sections as dataclasses: every slip named by its key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

Section = TypeVar("Section")


def merge(path: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The recipe's file with the overrides, as plain data. ValueError names what is wrong."""
    if not Path(path).is_file():
        raise ValueError(
            f"{path}: there is no such recipe; the ones that come with Garrison are in conf/"
        )
    try:
        merged: Any = OmegaConf.load(path)
        if not isinstance(merged, DictConfig):
            raise ValueError(f"{path}: a recipe is a mapping of sections, this is a list or a word")
        for override in overrides:
            key, found, _ = override.partition("=")
            if not found or not key:
                raise ValueError(f"{override!r}: expected key=value, such as seed=7")
            # `sources.mine.path=…` is short for `build_data.sources.mine.path=…`
            line = f"build_data.{override}" if key.split(".")[0] == "sources" else override
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([line]))
        plain = OmegaConf.to_container(merged, resolve=True)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8: {error}") from error
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {first_line(error)}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


@dataclass(frozen=True)
class Where:
    """A recipe's file, for messages and for what is read with them."""

    file: str

    def error(self, key: str, what: str) -> ValueError:
        return ValueError(f"{self.file}: {key}: {what}")

    def section(self, kind: type[Section], data: Any, key: str) -> Section:
        """A section as its dataclass."""
        if not isinstance(data, dict):
            raise self.error(key, f"expected a mapping, found {data!r}")
        self.check_keys(data, {item.name for item in fields(kind)}, key)  # type: ignore[arg-type]
        try:
            built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), data))
        except OmegaConfBaseException as error:
            inner = getattr(error, "full_key", "") or ""
            raise self.error(".".join(filter(None, (key, inner))), first_line(error)) from error
        except ValueError as error:
            said = str(error)
            if said.startswith((f"{key}.", f"{key}: ")):  # some name their keys in full
                key, _, said = said.partition(": ")
            raise self.error(key, said) from error
        assert isinstance(built, kind)
        return built

    def check_keys(self, data: Mapping[str, Any], known: set[str], key: str) -> None:
        """Refuse a key that nobody reads, with the likely spelling."""
        for name in data:
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=1)
                hint = (
                    f"did you mean {close[0]!r}?"
                    if close
                    else f"known are {', '.join(sorted(known))}"
                )
                raise self.error(".".join(filter(None, (key, str(name)))), f"unknown key; {hint}")

    def mapping(self, data: Mapping[str, Any], key: str, prefix: str = "") -> dict[str, Any]:
        """A section that must be there and be a mapping."""
        found = data.get(key)
        if not isinstance(found, dict):
            raise self.error(f"{prefix}{key}", f"expected a mapping, found {found!r}")
        return found

    def number(self, data: Mapping[str, Any], key: str) -> int:
        """A whole number, 0 where it is absent."""
        found = data.get(key, 0)
        if not isinstance(found, int) or isinstance(found, bool):
            raise self.error(key, f"expected a whole number, found {found!r}")
        return found

    def choice(self, data: Mapping[str, Any], key: str, known: tuple[Any, ...]) -> Any:
        """One of a few words, the first where it is absent."""
        found = data.get(key, known[0])
        if found not in known:
            raise self.error(key, f"expected one of {', '.join(known)}, found {found!r}")
        return found


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
