"""Reader of the zip that Stable-Baselines3's `model.save` writes; it checks sizes and names and never unpickles.

Nothing is unpickled: weights go through torch's weights-only reader, and of the JSON only plain fields are read, never
its base64 fields. Invariant: a member is checked before it is unpacked, and unexpected content is refused.
"""

from __future__ import annotations

import io
import json
import lzma
import re
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ACTIVATIONS = {"tanh": "Tanh", "relu": "ReLU", "elu": "ELU", "leakyrelu": "LeakyReLU"}
"""Name of a supported activation -> its module of `torch.nn`."""
MEMBERS = {  # of the zip, and the most bytes each may have unpacked
    "data": 64_000_000,
    "policy.pth": 256_000_000,
    "policy.optimizer.pth": 1_000_000_000,  # never read
    "actor.optimizer.pth": 1_000_000_000,  # never read, like the next two; from SAC and TD3
    "critic.optimizer.pth": 1_000_000_000,
    "ent_coef_optimizer.pth": 1_000_000_000,
    "pytorch_variables.pth": 1_000_000_000,  # never read
    "_stable_baselines3_version": 100,
    "system_info.txt": 100_000,  # never read
}
RECORDS_MAX = 1_000  # files inside of policy.pth, which is a zip itself


class ImportSb3Error(ValueError):
    """The file cannot be imported; the text names the file, what was found, what was expected, and the cure."""


def members_of(path: Path) -> dict[str, bytes]:
    """The three members that are read, after the sizes and names of all were checked. Raises ImportSb3Error."""
    required = ("data", "policy.pth", "_stable_baselines3_version")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            unknown = sorted(name for name in names if name not in MEMBERS)
            if any("normalize" in name.lower() for name in unknown):
                raise _needs_normalisation(path, f"the member {unknown[0]!r}")
            if unknown or len(set(names)) != len(names):
                raise ImportSb3Error(
                    f"{path.name}: among its {len(names)} members is {unknown[0] if unknown else 'one twice'!r}; "
                    f"expected those of a saved model: {', '.join(MEMBERS)}: save it with model.save"
                )
            for entry in entries:
                if entry.file_size > MEMBERS[entry.filename]:
                    raise ImportSb3Error(
                        f"{path.name}: member {entry.filename} unpacks to {entry.file_size:,} bytes, expected at most "
                        f"{MEMBERS[entry.filename]:,}: this is no model for this desk"
                    )
            missing = [name for name in required if name not in names]
            if missing:
                raise ImportSb3Error(
                    f"{path.name}: no member {missing[0]}, expected a model saved by Stable-Baselines3 1.0 or later: "
                    "save it with model.save"
                )
            return {name: archive.read(name) for name in required}
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError) as error:
        raise ImportSb3Error(
            f"{path.name}: {error}; expected the zip that model.save writes: save the model again"
        ) from error


def plain_of(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON of a model. Its ":serialized:" fields stay base64 text and are never decoded. Raises ImportSb3Error."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImportSb3Error(
            f"{path.name}: `data` is no JSON ({error}); expected model.save's: save it again"
        ) from error
    if not isinstance(fields, dict):
        raise ImportSb3Error(f"{path.name}: `data` is a {type(fields).__name__}, expected an object: save it again")
    return fields


def _needs_normalisation(path: Path, where: str) -> ImportSb3Error:
    return ImportSb3Error(
        f"{path.name}: {where} shows that VecNormalize scaled the observations; expected a policy that reads raw ones, "
        "because those statistics live in a pickle that is never opened: train with the scaling inside of the policy"
    )


def refuse_normalised(path: Path, plain: dict[str, Any]) -> None:
    """Refuse VecNormalize: it leaves no sure trace, so a mention in `data` or its file beside the zip counts.

    Raises ImportSb3Error.
    """
    for name, value in plain.items():
        texts = [name, value, *value.values()] if isinstance(value, dict) else [name, value]
        if any(isinstance(text, str) and re.search("vec_?normalize", text, re.IGNORECASE) for text in texts):
            raise _needs_normalisation(path, f"`{name}` in its data")
    for sibling in sorted(path.parent.glob("*.pkl")):
        if re.search("vec_?norm", sibling.name, re.IGNORECASE):
            raise _needs_normalisation(path, f"the file {sibling.name} next to it")


def weights_of(path: Path, data: bytes) -> dict[str, Tensor]:
    """The tensors of policy.pth through torch's weights-only reader, which runs no code of the file.

    Raises ImportSb3Error.
    """
    import torch

    _refuse_packed(path, data)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        first = str(error).partition("\n")[0][:200]
        raise ImportSb3Error(
            f"{path.name}: policy.pth is refused by torch's weights-only reader ({first}); expected tensors alone, "
            "anything else could run code: save the model with model.save of an unmodified Stable-Baselines3"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ImportSb3Error(f"{path.name}: policy.pth holds a {type(state).__name__}, expected tensors by name")
    for name, value in state.items():
        kind_text = f"a {type(value).__name__}"
        if isinstance(value, torch.Tensor):
            if value.dtype == torch.float32 and value.is_contiguous() and not value.is_meta and value.isfinite().all():
                continue
            kind_text = f"a tensor of {value.dtype} on {value.device}, contiguous: {value.is_contiguous()}"
        raise ImportSb3Error(f"{path.name}: {name} of policy.pth is {kind_text}; expected finite float32: train again")
    return state


def _refuse_packed(path: Path, data: bytes) -> None:
    """Refuse compressed records in policy.pth, a zip of stored ones: they could unpack to any size."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as records:
            entries = records.infolist()
    except zipfile.BadZipFile as error:
        raise ImportSb3Error(
            f"{path.name}: policy.pth is no zip ({error}), expected what torch.save writes since 1.6: save it again"
        ) from error
    unpacked = sum(entry.file_size for entry in entries)
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or unpacked > MEMBERS["policy.pth"] or len(entries) > RECORDS_MAX:
        raise ImportSb3Error(
            f"{path.name}: policy.pth has {len(entries)} records of {unpacked:,} bytes, compressed: {packed}; "
            f"expected stored ones of at most {MEMBERS['policy.pth']:,} bytes: save it with model.save"
        )
