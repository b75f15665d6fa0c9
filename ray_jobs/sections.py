"""A recipe's file as plain data, and its sections as dataclasses: every slip named by its key."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ray_jobs.outcomes import first_line

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
            merged = _overridden(path, merged, line)
        plain = OmegaConf.to_container(merged, resolve=True)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8: {error}") from error
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {first_line(error)}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _overridden(path: str, recipe: DictConfig, line: str) -> Any:
    key, _, found = line.partition("=")
    try:
        return OmegaConf.merge(recipe, OmegaConf.from_dotlist([line]))
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or first_line(error)
        raise ValueError(f"{line!r}: what follows the = is not YAML: {reason}") from error
    except TypeError as error:  # OmegaConf's word for a list in a mapping's place, or the reverse
        has = OmegaConf.select(recipe, key)
        kind = "a list" if isinstance(has, ListConfig) else "a mapping, as the recipe has"
        raise ValueError(f"{path}: {key}: expected {kind}, found {found}") from error


@dataclass(frozen=True)
class Where:
    """A recipe's file, for messages and for what is read with them."""

    file: str

    def error(self, key: str, what: str) -> ValueError:
        return ValueError(f"{self.file}: {key}: {what}")

    def section(
        self, kind: type[Section], data: Any, key: str, filled_in: Collection[str] = ()
    ) -> Section:
        """A section as its dataclass. Its fields `filled_in` are not the recipe's to set."""
        self._check_form(kind, data, key, filled_in)
        try:
            merged = OmegaConf.merge(OmegaConf.structured(kind), data)
        except (OmegaConfBaseException, TypeError) as error:
            raise self._misfit(kind, data, key) from error
        try:
            built = OmegaConf.to_object(merged)
        except OmegaConfBaseException as error:
            inner = getattr(error, "full_key", "") or ""
            raise self.error(".".join(filter(None, (key, inner))), first_line(error)) from error
        except ValueError as error:
            raise self._refusal(kind, merged, key, error) from error
        assert isinstance(built, kind)
        return built

    def _check_form(self, kind: Any, data: Any, key: str, filled_in: Collection[str] = ()) -> None:
        """Refuse what is no mapping, and unknown keys: here and in the sections inside."""
        if not isinstance(data, dict):
            raise self.error(key, f"expected a mapping, found {data!r}")
        self.check_keys(data, field_names(kind) - set(filled_in), key)
        for name, part in get_type_hints(kind).items():
            if is_dataclass(part) and name in data:
                self._check_form(part, data[name], f"{key}.{name}")

    def _misfit(self, kind: Any, data: Mapping[str, Any], key: str) -> ValueError:
        """What to say where OmegaConf refuses a value: it does not name the key of one in a list,
        nor show it.
        """
        for name, found in data.items():
            try:
                OmegaConf.merge(OmegaConf.structured(kind), {name: found})
            except TypeError:
                return self.error(f"{key}.{name}", f"a mapping or a list does not fit: {found!r}")
            except OmegaConfBaseException as error:
                inner = getattr(error, "full_key", "") or name
                said = first_line(error).replace("$VALUE_TYPE", type(found).__name__)
                return self.error(f"{key}.{inner}", said.replace("'$VALUE'", repr(found)))
        raise AssertionError(f"{key}: each key fits, all together do not")

    def _refusal(self, kind: Any, merged: Any, key: str, error: ValueError) -> ValueError:
        """What a section's own check says, with the key in full: of the section inside, where it is
        that one's.
        """
        for name, part in get_type_hints(kind).items():
            if is_dataclass(part):
                try:
                    OmegaConf.to_object(merged[name])
                except ValueError as inner:
                    return self._refusal(part, merged[name], f"{key}.{name}", inner)
        home, _, last = key.rpartition(".")
        named, _, said = str(error).partition(": ")
        if named in field_names(kind):
            return self.error(f"{key}.{named}", said)
        for begin, above in ((key, ""), (last, home)):  # some name a part of the way, or all of it
            if named == begin or named.startswith(f"{begin}."):
                return self.error(".".join(filter(None, (above, named))), said)
        return self.error(key, str(error))

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

    def number(self, data: Mapping[str, Any], key: str, most: int) -> int:
        """A whole number, 0 where it is absent."""
        found = data.get(key, 0)
        if not isinstance(found, int) or isinstance(found, bool):
            raise self.error(key, f"expected a whole number, found {found!r}")
        if not 0 <= found <= most:
            raise self.error(key, f"expected 0…{most}, found {found}")
        return found

    def text(self, data: Mapping[str, Any], key: str, prefix: str = "") -> str:
        """A text, also one that YAML reads as a number; empty where it is absent."""
        found = data.get(key)
        if isinstance(found, list | dict | bool):
            raise self.error(f"{prefix}{key}", f"expected a text, found {found!r}")
        return "" if found is None else str(found)

    def choice(self, data: Mapping[str, Any], key: str, known: tuple[Any, ...]) -> Any:
        """One of a few words, the first where it is absent."""
        found = data.get(key, known[0])
        if found not in known:
            raise self.error(key, f"expected one of {', '.join(known)}, found {found!r}")
        return found


def field_names(kind: Any) -> set[str]:
    """The keys of a section."""
    return {item.name for item in fields(kind)}


def absolute(path: str) -> str:
    """A path that holds wherever a job runs. An address stays as it is."""
    return path if "://" in path else str(Path(path).expanduser().absolute())
