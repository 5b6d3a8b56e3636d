"""One map from every naming of Wan weights to diffusers' names, and from those to their place in our model."""

import re
from collections.abc import Iterable

from torch import Tensor, nn

from reelray.proto.errors import WeightsError

FUSED = "attn1.to_qkv."
PARTS = ("attn1.to_q.", "attn1.to_k.", "attn1.to_v.")

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
PREFIXES = ("model.", "net.", "module.", "diffusion_model.")

# Original name, diffusers name. norm2 and norm3 trade places: the original numbers norms by use, diffusers by module.
RENAMES = (
    (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
    (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
    (r"^time_projection\.1\.", "condition_embedder.time_proj."),
    (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
    (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
    (r"^img_emb\.proj\.0\.", "condition_embedder.image_embedder.norm1."),
    (r"^img_emb\.proj\.1\.", "condition_embedder.image_embedder.ff.net.0.proj."),
    (r"^img_emb\.proj\.3\.", "condition_embedder.image_embedder.ff.net.2."),
    (r"^img_emb\.proj\.4\.", "condition_embedder.image_embedder.norm2."),
    (r"^img_emb\.emb_pos$", "condition_embedder.image_embedder.pos_embed"),
    (r"^head\.modulation$", "scale_shift_table"),
    (r"^head\.head\.", "proj_out."),
    (r"^(blocks\.\d+\.)modulation$", r"\1scale_shift_table"),
    (r"^(blocks\.\d+\.)norm3\.", r"\1norm2."),
    (r"^(blocks\.\d+\.)ffn\.0\.", r"\1ffn.net.0.proj."),
    (r"^(blocks\.\d+\.)ffn\.2\.", r"\1ffn.net.2."),
    (r"^(blocks\.\d+\.)self_attn\.", r"\1attn1."),
    (r"^(blocks\.\d+\.)cross_attn\.", r"\1attn2."),
    (r"^(blocks\.\d+\.attn[12]\.)([qkv])\.", r"\1to_\2."),
    (r"^(blocks\.\d+\.attn[12]\.)o\.", r"\1to_out.0."),
    (r"^(blocks\.\d+\.attn2\.)([kv])_img\.", r"\1add_\2_proj."),
    (r"^(blocks\.\d+\.attn2\.)norm_k_img\.", r"\1norm_added_k."),
)
# Left in some conversions, read by nobody.
IGNORED = re.compile(r"norm_added_q\.|^rope\.|^freqs$")


def canonical_name(name: str) -> str:
    """Map a name of any known checkpoint to diffusers' name.

    Wrapper prefixes of training frameworks fall away; diffusers' names come back unchanged.

    Args:
        name: Name of a parameter as it stands in the file.
    """
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    while prefix := next((p for p in PREFIXES if name.startswith(p)), None):
        name = name.removeprefix(prefix)
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def source_names(names: Iterable[str], file: str) -> dict[str, str]:
    """Map canonical names to the names in a file, without those that nobody reads.

    Args:
        names: All names of the file.
        file: What to call the file in an error.

    Raises:
        WeightsError: Two names of the file mean the same tensor.
    """
    found: dict[str, str] = {}
    for name in names:
        canonical = canonical_name(name)
        if IGNORED.search(canonical):
            continue
        if canonical in found:
            raise WeightsError(f"{file}: tensors {found[canonical]} and {name} both mean {canonical}")
        found[canonical] = name
    return found


def checkpoint_views(transformer: nn.Module) -> dict[str, Tensor]:
    """List every parameter under its diffusers name.

    Fused weights appear as their un-fused rows. The tensors are views: copying into one loads it, reading one saves it.

    Args:
        transformer: A `WanTransformer`.
    """
    views: dict[str, Tensor] = {}
    for name, parameter in transformer.named_parameters():
        if FUSED in name:
            for part, rows in zip(PARTS, parameter.data.chunk(3), strict=True):
                views[name.replace(FUSED, part)] = rows
        else:
            views[name] = parameter.data
    return views
