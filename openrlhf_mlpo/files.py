"""Rows of files (JSON Lines, JSON and Parquet, packed or not), each with its place for error messages; YAML files;
names in Python files; files written whole."""

from __future__ import annotations

import ast
import bz2
import gzip
import json
import lzma
import os
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from openrlhf_mlpo.errors import UserError, one_line
from openrlhf_mlpo.text import readable

Rows = Iterator[tuple[str, dict]]  # (place, row)

_UNPACK: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def file_kind(path: Path) -> str:
    """ ".jsonl", ".json" or ".parquet" when rows can be read from a file of this name, else ""."""
    name = Path(path.stem if path.suffix in _UNPACK else path)
    packed_parquet = name.suffix == ".parquet" and path.suffix in _UNPACK
    return name.suffix if name.suffix in READERS and not packed_parquet else ""


def read_rows(path: Path) -> Rows:
    """(place, row) of a file, in order. Raises UserError, naming file and row, where it is damaged or no object."""
    return READERS[file_kind(path)](path)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with _UNPACK.get(path.suffix, open)(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8").strip().strip("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, line {number}: not UTF-8 text, save it as such: {error}") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}, after line {number}: unreadable or damaged: {one_line(error)}") from None


def _read_jsonl(path: Path) -> Rows:
    for number, line in _lines(path):
        if not line:
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: not valid JSON: {one_line(error)}") from None
        yield _checked(place, row)


def _read_json(path: Path) -> Rows:
    """A list of objects, an object that holds one (`{"examples": […]}`), one object, or JSON Lines by another name."""
    text = "\n".join(line for _, line in _lines(path))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{"):
            yield from _read_jsonl(path)
            return
        raise UserError(f"{path}: not valid JSON: {one_line(error)}") from None
    if isinstance(value, dict):
        lists = [each for each in value.values() if isinstance(each, list) and each and isinstance(each[0], dict)]
        value = lists[0] if len(lists) == 1 else [value]
    if not isinstance(value, list):
        raise UserError(f"{path}: must be a list of JSON objects, not {type(value).__name__}")
    for number, row in enumerate(value, 1):
        yield _checked(f"{path}, item {number}", row)


def _checked(place: str, row: Any) -> tuple[str, dict]:
    if not isinstance(row, dict):
        raise UserError(f"{place}: must be a JSON object, not {type(row).__name__}")
    return place, row


def _read_parquet(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}, after row {number}: not a readable Parquet file: {one_line(error)}") from None


READERS: dict[str, Callable[[Path], Rows]] = {".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet}


def read_yaml(path: Path, where: str, fault: str = "not valid YAML") -> Any:
    """The content of a YAML file. Raises UserError, which begins with `where`, when it cannot be read or parsed."""
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{where}: {error.strerror or error}") from None
    except yaml.MarkedYAMLError as error:  # without its excerpt, which may hold a key
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{where}: {fault}: {line}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{where}: {fault}: {one_line(error)}") from None


def defined_names(path: Path) -> dict[str, ast.AST]:
    """Names that a Python file defines or imports ("*": all of some module), with the place; it is read, not run.

    Raises OSError, SyntaxError or ValueError.
    """
    names: dict[str, ast.AST] = {}
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.setdefault(node.name, node)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.setdefault(node.id, node)
        elif isinstance(node, ast.alias):
            names.setdefault((node.asname or node.name).partition(".")[0], node)
    return names


@contextmanager
def whole_file(path: Path) -> Generator[IO[bytes]]:
    """Open a file for writing under another name and rename it at the end: a kill leaves the old file or the new one,
    never half of one. Raises OSError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def write_whole(path: Path, lines: Iterable[str]) -> None:
    """Write a text file, the whole file or none. Raises UserError when it cannot be written.

    Lone surrogates are replaced.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.writelines(readable(line).encode() for line in lines)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def write_jsonl(path: Path, rows: Iterable[Mapping]) -> None:
    """Write rows as JSON Lines, the whole file or none. Raises UserError when it cannot be written."""
    write_whole(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
