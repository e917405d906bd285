"""What a page fetches to have a model: its weights, or what parts it from another model.

A model is 2 bytes a number. One that was trained from another, or the other from it, is one signed
byte a number: their difference, with a scale for each row of `width` numbers. Either is deflated,
and `weights.js` makes float32 of it. Nothing here needs more than Python, so that the
book can be built without PyTorch.

Chapters: rlvr, ppo-live.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
MODELS: dict[str, tuple[Path, str | None]] = {  # of pages: a folder, and what it came from
    "sums-base": (ARTIFACTS / "sums" / "base", None),
    "letters-sft": (ARTIFACTS / "letters" / "sft", None),
    "letters-reward": (ARTIFACTS / "letters" / "reward", "letters-sft"),
    "letters-base": (ARTIFACTS / "letters" / "base", "letters-sft"),
    "letters-aligned": (ARTIFACTS / "letters" / "aligned", "letters-sft"),
}
LEVELS = 63  # of a difference, up and down


def shape(name: str) -> dict[str, int]:
    """The shape of a model, as `Policy` of policy.js takes it."""
    config = json.loads((MODELS[name][0] / "config.json").read_text(encoding="utf-8"))
    names = {
        "layers": "n_layer",
        "width": "n_embd",
        "heads": "n_head",
        "vocab": "vocab_size",
        "positions": "n_positions",
    }
    return {ours: config[theirs] for ours, theirs in names.items()}


def flat_weights(folder: str | Path) -> bytes:
    """The weights of the GPT-2 in a folder in the kernel's order, float32, little-endian.

    It is the order of `GPT2Model.parameters()`: embeddings, then layer by layer, then the last
    norm; and after it the head of a reward model, if there is one.

    Raises
    ------
    ValueError
        If the folder's model is not in float32.
    """
    folder = Path(folder)
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, start = json.loads(data[8 : 8 + size]), 8 + size
    layers = json.loads((folder / "config.json").read_text(encoding="utf-8"))["n_layer"]
    found = []
    for name in [*_names(layers), *(["score.weight"] if "score.weight" in header else [])]:
        tensor = header[name]
        if tensor["dtype"] != "F32":
            raise ValueError(f"{name} in {folder} is {tensor['dtype']}; expected F32")
        first, last = tensor["data_offsets"]
        found.append(data[start + first : start + last])
    return b"".join(found)


def _names(layers: int) -> list[str]:
    parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    inner = [f"h.{layer}.{part}" for layer in range(layers) for part in parts]
    tensors = [f"{part}.{kind}" for part in (*inner, "ln_f") for kind in ("weight", "bias")]
    return [f"transformer.{name}" for name in ("wte.weight", "wpe.weight", *tensors)]


def packed(name: str) -> bytes:
    """A model as a page fetches it."""
    folder, base = MODELS[name]
    numbers = _floats(flat_weights(folder))
    if base is None:
        return zlib.compress(_planes(_halves(numbers)), 9)
    width = shape(name)["width"]
    start = _rounded(_floats(flat_weights(MODELS[base][0])))
    head = [0.0] * (len(numbers) - len(start))  # of a reward model, which its policy has not
    apart = [x - y for x, y in zip(numbers, [*start, *head], strict=True)]
    rows = [apart[i : i + width] for i in range(0, len(apart), width)]
    scales = _rounded([max(map(abs, row)) / LEVELS for row in rows])
    steps = bytes(round(x / s) & 255 if s else 0 for row, s in zip(rows, scales) for x in row)
    return zlib.compress(_planes(_halves(scales)) + steps, 9)


def _floats(data: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(data) // 4}f", data)


def _halves(numbers) -> bytes:
    return struct.pack(f"<{len(numbers)}e", *numbers)


def _rounded(numbers) -> tuple[float, ...]:
    """The same in half precision."""
    return struct.unpack(f"<{len(numbers)}e", _halves(numbers))


def _planes(halves: bytes) -> bytes:
    """The low bytes, then the high ones, which are much alike and so deflate well."""
    return halves[0::2] + halves[1::2]


def weights_script(name: str) -> str:
    """A script that puts a model's weights where a page finds them: from a file no other loads."""
    text = base64.b64encode(packed(name)).decode()
    return f'(globalThis.rlhfWeights ??= {{}})["{name}"] = "{text}";\n'
