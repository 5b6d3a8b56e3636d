"""Loading from every layout, saving for diffusers, and clear errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reelray.proto.errors import WeightsError
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.config_files import config_of_original, config_of_shapes
from reelray.workers.models.wan.key_map import canonical_name, checkpoint_views
from reelray.workers.models.wan.transformer import WanTransformer
from reelray.workers.models.wan.weights import load_transformer, save_transformer
from reelray.workers.weights.lora import LoraFile
from tests.support.original_names import original_name, original_state
from tests.support.wan_oracle import TINY, TINY_I2V, draw_inputs, make_oracle

ROOT = Path(__file__).parents[4]
CPU = ("cpu", torch.float32)


def original_config(config) -> dict:
    return {
        "model_type": "i2v" if config.image_dim else "t2v",
        "dim": config.num_attention_heads * config.attention_head_dim,
        "num_heads": config.num_attention_heads,
        **{name: config[name] for name in ("ffn_dim", "freq_dim", "num_layers", "eps", "text_dim")},
        "in_dim": config.in_channels,
        "out_dim": config.out_channels,
    }


@torch.no_grad()
def assert_same(oracle, twin) -> None:
    latents, text = draw_inputs(oracle, batch=1)
    timestep = torch.tensor([500.0])
    if oracle.config.image_dim:
        image = torch.randn(1, 257, oracle.config.image_dim)
        expected = oracle(latents, timestep, text, image, return_dict=False)[0]
        found = twin(latents, timestep, text, image=twin.prepare_image(image))
    else:
        expected = oracle(latents, timestep, text, return_dict=False)[0]
        found = twin(latents, timestep, text)
    assert (found - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", [{}, TINY_I2V], ids=["t2v", "i2v"])
@pytest.mark.parametrize("shard", ["10GB", "100KB"])
def test_diffusers_folders(tmp_path, kind, shard) -> None:
    oracle = make_oracle(**kind)
    oracle.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "100KB")
    twin = load_transformer(tmp_path, *CPU)
    assert not twin.training
    assert_same(oracle, twin)


@pytest.mark.parametrize("kind", [{}, {**TINY_I2V, "image_dim": 1280}], ids=["t2v", "i2v"])
def test_original_folders(tmp_path, kind) -> None:
    oracle = make_oracle(**kind)
    save_file(original_state(oracle), tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(original_config(oracle.config)))
    assert_same(oracle, load_transformer(tmp_path, *CPU))


@pytest.mark.parametrize("shard", ["10GB", "100KB"])
@torch.no_grad()
def test_some_layers_are_loaded_as_if_all_were(tmp_path, shard) -> None:
    oracle = make_oracle(num_layers=4)
    oracle.save_pretrained(tmp_path, max_shard_size=shard)
    whole, some = load_transformer(tmp_path, *CPU), load_transformer(tmp_path, *CPU, layers=range(1, 3))
    views, expected = checkpoint_views(some), checkpoint_views(whole)
    left_out = {name for name in expected if name.startswith(("blocks.0.", "blocks.3."))}
    assert views.keys() == expected.keys() - left_out
    assert all(torch.equal(view, expected[name]) for name, view in views.items())
    latents, text = draw_inputs(oracle)
    (opened, run_here) = (
        model.open_forward(latents, torch.full((latents.shape[0],), 500.0), model.prepare_text(text))
        for model in (whole, some)
    )
    x = opened.run(opened.embed(), range(1))
    assert torch.equal(run_here.run(x, range(1, 3)), opened.run(x, range(1, 3)))
    with pytest.raises(ValueError, match=r"layer 3 is not here; range\(1, 3\) were kept"):
        run_here.run(x, range(1, 4))


def test_layers_that_a_model_lacks_are_refused(tmp_path) -> None:
    oracle = make_oracle()
    oracle.save_pretrained(tmp_path)
    for layers in (range(0), range(1, 9), range(0, 2, 2)):
        with pytest.raises(ValueError, match="no consecutive layers of 3"):
            load_transformer(tmp_path, *CPU, layers=layers)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file(state | {"blocks.3.attn1.to_q.weight": state["blocks.0.attn1.to_q.weight"].clone()}, file)
    with pytest.raises(WeightsError, match="not part of this model"):
        load_transformer(tmp_path, *CPU, layers=range(1))


@pytest.mark.parametrize("key", ["generator", "generator_ema"])
def test_self_forcing_files(tmp_path, key) -> None:
    oracle = make_oracle(num_attention_heads=1, attention_head_dim=128)
    wrapped = {
        f"model._fsdp_wrapped_module.{name}".replace("self_attn", "_checkpoint_wrapped_module.self_attn"): tensor
        for name, tensor in original_state(oracle).items()
    }
    other = {name: torch.zeros_like(tensor) for name, tensor in wrapped.items()}
    content = {"generator": other, "generator_ema": other, key: wrapped, "critic": {}, "step": 3}
    torch.save(content, tmp_path / "model.pt")
    assert_same(oracle, load_transformer(tmp_path / "model.pt", *CPU, weights_key=key))
    assert_same(oracle, load_transformer(tmp_path, *CPU, weights_key=key))
    with pytest.raises(WeightsError, match="holds generator_ema and generator; name one"):
        load_transformer(tmp_path / "model.pt", *CPU)
    with pytest.raises(WeightsError, match=r"no weights under 'model'; it holds critic, generator, generator_ema"):
        load_transformer(tmp_path / "model.pt", *CPU, weights_key="model")


def test_a_bare_pt_without_prefix(tmp_path) -> None:
    oracle = make_oracle(num_attention_heads=1, attention_head_dim=128)
    torch.save(original_state(oracle), tmp_path / "model.pt")
    assert_same(oracle, load_transformer(tmp_path / "model.pt", *CPU))


@pytest.mark.parametrize("alpha", [None, 2.0])
def test_lora_merges(tmp_path, alpha) -> None:
    oracle = make_oracle(num_attention_heads=1, attention_head_dim=128)
    torch.save({"generator": {f"model.{k}": v for k, v in original_state(oracle).items()}}, tmp_path / "base.pt")
    factors, merged = {}, {k: v.clone() for k, v in oracle.state_dict().items()}
    for name, weight in oracle.state_dict().items():
        if not (name.startswith("blocks.") and weight.ndim == 2):
            continue
        down, up = torch.randn(4, weight.shape[1]) * 0.1, torch.randn(weight.shape[0], 4) * 0.1
        module = "base_model.model." + original_name(name).removesuffix(".weight")
        factors |= {f"{module}.lora_A.default.weight": down, f"{module}.lora_B.default.weight": up}
        merged[name] += (alpha or 4) / 4 * up @ down
    torch.save({"generator_lora": factors}, tmp_path / "lora.pt")
    lora = LoraFile(path=tmp_path / "lora.pt", weights_key="generator_lora", alpha=alpha)
    plain = load_transformer(tmp_path / "base.pt", *CPU)
    twin = load_transformer(tmp_path / "base.pt", *CPU, lora=lora)
    oracle.load_state_dict(merged)
    assert_same(oracle, twin)
    some = load_transformer(tmp_path / "base.pt", *CPU, lora=lora, layers=range(1, 2))
    assert torch.equal(some.blocks[1].ffn.net[2].weight, twin.blocks[1].ffn.net[2].weight)
    assert not torch.equal(plain.blocks[0].ffn.net[2].weight, twin.blocks[0].ffn.net[2].weight)


def test_lora_errors(tmp_path) -> None:
    make_oracle().save_pretrained(tmp_path)

    def load(**tensors) -> None:
        save_file({k.replace("__", "."): v for k, v in tensors.items()}, tmp_path / "lora.safetensors")
        lora = LoraFile(path=tmp_path / "lora.safetensors")
        (tmp_path / "base").mkdir(exist_ok=True)
        load_transformer(tmp_path / "diffusion_pytorch_model.safetensors", *CPU, lora=lora)

    down, up = torch.zeros(4, 48), torch.zeros(48, 4)
    with pytest.raises(WeightsError, match=r"blocks.9.attn1.to_q.weight, which is not part"):
        load(blocks__9__attn1__to_q__lora_A__weight=down, blocks__9__attn1__to_q__lora_B__weight=up)
    with pytest.raises(WeightsError, match="lora_A without its partner"):
        load(blocks__0__attn1__to_q__lora_A__weight=down)
    with pytest.raises(WeightsError, match=r"\[48, 4\] x \[4, 47\] do not fit a weight of \[48, 48\]"):
        load(blocks__0__attn1__to_q__lora_A__weight=down[:, :47].clone(), blocks__0__attn1__to_q__lora_B__weight=up)
    with pytest.raises(WeightsError, match="tensor bias is not a LoRA factor"):
        load(bias=down)


@pytest.mark.parametrize("kind", [{}, TINY_I2V], ids=["t2v", "i2v"])
@pytest.mark.parametrize("max_shard_bytes", [10 << 30, 100_000])
def test_diffusers_reads_what_is_saved(tmp_path, kind, max_shard_bytes) -> None:
    from diffusers import WanTransformer3DModel

    torch.manual_seed(3)
    mine = WanTransformer(WanConfig.from_diffusers({**TINY, **kind})).eval()
    torch.nn.init.normal_(mine.proj_out.weight)
    save_transformer(mine, tmp_path, max_shard_bytes=max_shard_bytes)
    oracle = WanTransformer3DModel.from_pretrained(tmp_path, local_files_only=True).eval()
    assert_same(oracle, mine)
    again = load_transformer(tmp_path, *CPU)
    assert again.config == mine.config
    for name, view in checkpoint_views(again).items():
        assert torch.equal(view, checkpoint_views(mine)[name])
    if max_shard_bytes > 1 << 30:
        assert load_file(tmp_path / "diffusion_pytorch_model.safetensors").keys() == oracle.state_dict().keys()


def test_half_precision_keeps_diffusers_float_parts(tmp_path) -> None:
    from diffusers import WanTransformer3DModel

    make_oracle(**TINY_I2V).save_pretrained(tmp_path)
    oracle = WanTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16, local_files_only=True)
    twin = load_transformer(tmp_path, "cpu", torch.bfloat16)
    views = checkpoint_views(twin)
    for name, tensor in oracle.state_dict().items():
        assert views[name].dtype == tensor.dtype, name
        assert torch.equal(views[name], tensor), name


@torch.no_grad()
def test_half_precision_is_as_near_to_float_as_diffusers(tmp_path) -> None:
    from diffusers import WanTransformer3DModel

    exact = make_oracle()
    exact.save_pretrained(tmp_path)
    oracle = WanTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16, local_files_only=True)
    twin = load_transformer(tmp_path, "cpu", torch.bfloat16)
    latents, text = draw_inputs(exact)
    timestep = torch.tensor([900.0, 30.0])
    wanted = exact(latents, timestep, text, return_dict=False)[0]
    half = text.bfloat16()
    theirs = oracle(latents.bfloat16(), timestep, half, return_dict=False)[0].float() - wanted
    for merge in (False, True):
        ours = twin(latents, timestep, twin.prepare_text(half, merge_padding=merge)).float() - wanted
        assert ours.square().mean().sqrt() <= 1.1 * theirs.square().mean().sqrt()


def test_missing_and_damaged_files(tmp_path) -> None:
    oracle = make_oracle()
    oracle.save_pretrained(tmp_path, max_shard_size="100KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    whole = shards[1].read_bytes()

    def load() -> None:
        load_transformer(tmp_path, *CPU)

    shards[1].unlink()
    with pytest.raises(WeightsError, match=rf"{shards[1].name}: the shard is missing \(1 of {len(shards)}\)"):
        load()
    for damaged, message in (
        (whole[:-7], "download the file again"),
        (whole + b"x", "download the file again"),
        (b"", "not a safetensors file, or truncated"),
        (b"\xff" * 64, "not a safetensors file, or truncated"),
        (whole[:8] + b"x" + whole[9:], "the header is damaged"),
        (whole.replace(b'"F32"', b'"F99"', 1), "has dtype F99"),
        (whole.replace(b'"shape":[', b'"shape":[1', 1)[:-1], "spans"),
    ):
        shards[1].write_bytes(damaged)
        with pytest.raises(WeightsError, match=message) as caught:
            load()
        assert str(shards[1]) in caught.value.message
        assert "\n" not in caught.value.message
    shards[1].write_bytes(whole)
    load()
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text("{")
    with pytest.raises(WeightsError, match="is not an index of shards"):
        load()
    with pytest.raises(WeightsError, match="no such folder"):
        load_transformer(tmp_path / "nowhere", *CPU)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"no .safetensors or .pt file"):
        load_transformer(tmp_path / "empty", *CPU)


def test_damaged_pickles(tmp_path) -> None:
    file = tmp_path / "model.pt"
    torch.save(original_state(make_oracle(num_attention_heads=1, attention_head_dim=128)), file)
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a pickle"):
        file.write_bytes(damaged)
        with pytest.raises(WeightsError, match="damaged") as caught:
            load_transformer(file, *CPU)
        assert "\n" not in caught.value.message
    torch.save({"model": {"a": Path("x")}}, file)
    with pytest.raises(WeightsError, match="holds more than tensors"):
        load_transformer(file, *CPU)
    torch.save({"model": {"a": 3}}, file)
    with pytest.raises(WeightsError, match="entry a is a int"):
        load_transformer(file, *CPU)
    with pytest.raises(WeightsError, match=r"nowhere.pt: the file is missing"):
        load_transformer(tmp_path / "nowhere.pt", *CPU)


def test_wrong_names_and_shapes(tmp_path) -> None:
    oracle = make_oracle()
    oracle.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)

    def load(changed) -> None:
        file.unlink()
        save_file(changed, file)
        load_transformer(tmp_path, *CPU)

    name = "blocks.1.attn1.to_k.weight"
    with pytest.raises(WeightsError, match=rf"tensor {name} is missing; 1 of {len(state)}"):
        load({k: v for k, v in state.items() if k != name})
    with pytest.raises(WeightsError, match=rf"{file}: tensor {name} has shape \[48, 47\]; \[48, 48\] is expected"):
        load({**state, name: torch.zeros(48, 47)})
    with pytest.raises(WeightsError, match=r"tensor blocks.1.extra is not part of this model"):
        load({**state, "blocks.1.extra": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"both mean blocks.1.attn1.to_k.weight"):
        load({**state, "model.blocks.1.self_attn.k.weight": state[name].clone()})
    load({**state, "blocks.1.attn2.norm_added_q.weight": torch.zeros(1)})


def test_config_dialects() -> None:
    values = {"dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30, "model_type": "t2v", "eps": 1e-6}
    small = WanConfig(num_attention_heads=12, ffn_dim=8960, num_layers=30)
    assert config_of_original(values) == small
    flf = config_of_original({**values, "model_type": "flf2v", "in_dim": 36})
    assert (flf.image_dim, flf.added_kv_proj_dim, flf.pos_embed_seq_len, flf.in_channels) == (1280, 1536, 514, 36)
    with pytest.raises(ValueError, match="model_type is 'vace'; it must be one of t2v, i2v, flf2v"):
        config_of_original({**values, "model_type": "vace"})
    for config in (small, flf):
        with torch.device("meta"):
            views = checkpoint_views(WanTransformer(config))
        assert config_of_shapes({name: tuple(view.shape) for name, view in views.items()}, Path("x.pt")) == config
        assert WanConfig.from_diffusers(json.loads(json.dumps(config.to_diffusers()))) == config


def test_every_name_has_one_original_twin() -> None:
    names = make_oracle(**TINY_I2V).state_dict()
    assert len({original_name(name) for name in names}) == len(names)
    for name in names:
        assert canonical_name(name) == name
        assert canonical_name(original_name(name)) == name


# A memory-mapped `.pt` shows its clean file pages in the resident size, so there only anonymous memory is watched.
MEASURE = """
import sys, threading, torch
from pathlib import Path
from reelray.workers.models.wan.weights import load_transformer
torch.set_num_threads(1)
path, dtype, tiny = Path(sys.argv[1]), getattr(torch, sys.argv[2]), Path(sys.argv[3])
key = "RssAnon" if path.suffix == ".pt" else "VmHWM"
def bytes_now():
    line = next(l for l in open("/proc/self/status") if l.startswith(key))
    return int(line.split()[1]) * 1024
load_transformer(tiny, "cpu", dtype)
Path("/proc/self/clear_refs").write_text("5")
before = peak = bytes_now()
done = threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, bytes_now())
watcher = threading.Thread(target=watch)
watcher.start()
model = load_transformer(path, "cpu", dtype)
done.set()
watcher.join()
target = sum(p.nbytes for p in model.parameters())
print((max(peak, bytes_now()) - before) / target, target / 2**20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux memory counters")
@pytest.mark.parametrize("layout", ["safetensors", "pt"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_grows_by_the_model_and_little_more(tmp_path, layout, dtype) -> None:
    make_oracle(num_attention_heads=1, attention_head_dim=128).save_pretrained(tmp_path / "tiny")
    big = make_oracle(num_attention_heads=8, attention_head_dim=128, ffn_dim=4096, num_layers=2)
    path = tmp_path / "big"
    if layout == "pt":
        path = tmp_path / "big.pt"
        torch.save({"generator": big.state_dict()}, path)
    else:
        big.save_pretrained(path)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), dtype, str(tmp_path / "tiny")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    growth, target_mib = map(float, done.stdout.split())
    assert target_mib > 70
    # Half precision reads through a scratch of 16 MiB, and pages of the file may still be mapped; a second copy is 2.
    assert 0.9 < growth < (1.1 if dtype == "float32" else 1.6)
