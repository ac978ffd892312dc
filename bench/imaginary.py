"""Imaginary GPUs: tensors on "cuda" without numbers, for a torch that has no CUDA. See rehearse.py.

Tensors in host memory are real, so the trainer's own decisions (rewards, advantages, micro-batches)
are too. What a recipe puts on the GPU becomes a torch FakeTensor, which has a shape, a dtype, a
device and a size that is counted. So do a model's weights, wherever they are. Reading a number
from one of them gives 0. torch, safetensors and transformers are patched; the trainer is not.
"""

import contextlib
import ctypes
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).resolve().parent


def build() -> None:
    """Compile and load imaginary_gpu.cpp, before torch asks, only once, whether it has CUDA.

    The library is kept in ~/.cache. Exits with one sentence if it cannot be built.
    """
    torch_dir = Path(importlib.util.find_spec("torch").origin).parent
    version, source = (torch_dir / "version.py").read_bytes(), HERE / "imaginary_gpu.cpp"
    if b"cuda: Optional[str] = None" not in version:
        sys.exit("bench.rehearse needs the CPU build of torch: pip install -r requirements-cpu.txt")
    name = hashlib.sha256(version + source.read_bytes()).hexdigest()[:16]
    library = Path.home() / ".cache" / "imaginary_gpu" / f"{name}.so"
    if not library.exists():
        if shutil.which("g++") is None:
            sys.exit("bench.rehearse needs g++: apt-get install g++")
        library.parent.mkdir(parents=True, exist_ok=True)
        made, lib = library.with_suffix(f".{os.getpid()}"), torch_dir / "lib"
        command = f"g++ -shared -fPIC -std=c++20 -I{torch_dir}/include {source} -o {made}"
        command += f" -L{lib} -Wl,-rpath,{lib} -lc10 -ltorch_cpu"
        subprocess.run(command.split(), check=True)
        made.rename(library)
    ctypes.CDLL(library)


build()

import numpy as np  # noqa: E402
import safetensors  # noqa: E402
import safetensors.torch  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.distributed._tools.fake_collectives  # noqa: E402
import torch.distributed.fsdp._fully_shard._fully_shard as fsdp  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_iter, tree_map_only  # noqa: E402

aten = torch.ops.aten
FAKE = FakeTensorMode(allow_non_fake_inputs=True)
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
INDEXING += (aten._index_put_impl_.default, aten._unsafe_index_put.default)
PLAIN = (torch.Tensor, torch.nn.Parameter, FakeTensor)
LIBRARY = torch.library.Library("aten", "IMPL")


class ImaginaryGPU(TorchDispatchMode):
    """Fakes what is put on the GPU, and counts the bytes of fake tensors that are alive.

    peaks: {(stage, engine awake): {"cuda": bytes, "cpu": bytes}}. `stage` is set from outside.
    What the sampling engine holds on the GPU is not in them.
    """

    def __init__(self):
        super().__init__()
        self.sizes, self.now, self.peaks = {}, {"cuda": 0, "cpu": 0}, {}
        self.stage, self.awake = "start", False
        resize = torch.UntypedStorage.resize_

        def resize_(storage, size):  # FSDP frees and allocates gathered weights in this way
            resize(storage, size)
            self._note(storage._cdata, size)

        torch.UntypedStorage.resize_ = resize_

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE):
            # DTensor works out a result's shape with fake tensors of its own, which do not count.
            return func(*args, **kwargs)
        tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(type(x) not in PLAIN for x in tensors):
            return NotImplemented  # a DTensor takes itself apart, and calls again
        fake = any(isinstance(x, FakeTensor) for x in tensors)
        if not fake and torch.device(kwargs.get("device") or "cpu").type != "cuda":
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            known = known_values(args[0])
            return args[0].dtype == torch.bool if known is None else known.item()
        values = self._values(func, tensors, args, kwargs)
        if func in INDEXING:
            args = (args[0], [x for index in args[1] for x in places(index)], *args[2:])
        if not all(isinstance(x, FakeTensor) for x in tensors):
            args, kwargs = tree_map_only(torch.Tensor, faked, (args, kwargs))
        with FAKE:
            out = func(*args, **kwargs)
        if values is not None:
            out.known = values
        elif func._schema.is_mutable and hasattr(args[0], "known"):
            del args[0].known
        self.count(out)
        if kwargs.get("non_blocking") and out.device.type == "cpu":
            self.pin(out)  # where torch puts what is fetched from the GPU in the background
        return out

    @staticmethod
    def _values(func, tensors, args, kwargs):
        """The result's numbers if those of all operands are known, as of ids and masks."""
        for tensor in tensors:
            if tensor.is_floating_point() or known_values(tensor) is None:
                return None
        if not tensors or func._schema.is_mutable:
            return None
        args, kwargs = tree_map_only(torch.Tensor, known_values, (args, kwargs))
        kwargs = kwargs | ({"device": torch.device("cpu")} if "device" in kwargs else {})
        out = func(*args, **kwargs)
        return out if isinstance(out, torch.Tensor) and not out.is_floating_point() else None

    def count(self, tensors) -> None:
        """Count fake tensors from now until they are gone."""
        for tensor in [tensors] if isinstance(tensors, FakeTensor) else tree_iter(tensors):
            if isinstance(tensor, FakeTensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.sizes:
                    self._note(storage._cdata, storage.size(), tensor.device.type)
                    weakref.finalize(storage, self._gone, storage._cdata)

    def _note(self, key: int, size: int, device: str | None = None) -> None:
        before, device = self.sizes.get(key, (0, device))
        if device in self.now:
            self.sizes[key] = size, device
            self.now[device] += size - before
            self.look()

    def pin(self, tensor: FakeTensor) -> FakeTensor:
        """Count a tensor of host memory as pinned, which takes the next power of two of bytes."""
        storage = tensor.untyped_storage()
        self._note(storage._cdata, 1 << max(0, storage.size() - 1).bit_length())
        return tensor

    def look(self) -> None:
        """Raise the peaks of the present stage to what is alive now."""
        peak = self.peaks.setdefault((self.stage, self.awake), {"cuda": 0, "cpu": 0})
        for device, size in self.now.items():
            peak[device] = max(peak[device], size)

    def _gone(self, key: int) -> None:
        self._note(key, 0)
        del self.sizes[key]


GPU = ImaginaryGPU()


def save_file(tensors, path, metadata=None):
    """Write only the tensors' dtypes and shapes, instead of a safetensors file."""
    facts = {
        name: [str(x.dtype).removeprefix("torch."), list(x.shape)] for name, x in tensors.items()
    }
    Path(path).write_text(json.dumps(facts))


@contextlib.contextmanager
def safe_open(path, *_, **__):
    facts = json.loads(Path(path).read_text())

    def get_tensor(name):
        dtype, shape = facts[name]
        with FAKE:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        GPU.count(tensor)
        return tensor

    yield SimpleNamespace(keys=lambda: facts, get_tensor=get_tensor)


def load_file(path, *_, **__):
    with safe_open(path) as file:
        return {name: file.get_tensor(name) for name in json.loads(Path(path).read_text())}


# Before trainer and transformers import them.
safetensors.safe_open = safe_open
safetensors.torch.save_file, safetensors.torch.load_file = save_file, load_file


def faked(tensor: torch.Tensor) -> FakeTensor:
    return tensor if isinstance(tensor, FakeTensor) else FAKE.from_tensor(tensor)


def known_values(tensor: torch.Tensor) -> torch.Tensor | None:
    return getattr(tensor, "known", None) if isinstance(tensor, FakeTensor) else tensor


def places(index: torch.Tensor | None) -> list[torch.Tensor | None]:
    """The index; a mask as an index with a place for each True. An unknown mask is all True."""
    if index is None or index.dtype != torch.bool:
        return [index]
    known = known_values(index)
    count = index.numel() if known is None else int(known.sum())
    with FAKE:
        return [torch.empty(count, dtype=torch.int64, device=index.device)] * index.ndim


class Nothing:
    """A stream or an event, and what any of its methods returns."""

    device = torch.device("cuda", 0)
    is_capturing = bool

    def __init__(self, *_, **__):
        pass

    def __getattr__(self, _):
        return lambda *_: Nothing()


def set_data(tensor: FakeTensor, other: FakeTensor) -> None:
    """`tensor.data = other`, which on a real tensor may also change the device."""
    DATA.__set__(tensor, other)
    tensor.fake_device = other.fake_device


DATA = torch.Tensor.data
FakeTensor.data = property(DATA.__get__, set_data)


def flash_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
    """Attention on a GPU. Anything that torch's flash kernel would refuse is an error."""
    if q.device.type == "cpu":  # the trial of a model in host memory, see Head.check
        return torch.empty_like(q)
    assert attn_mask is None and is_causal and q.dtype == torch.bfloat16, "no flash attention"
    attention = aten._scaled_dot_product_flash_attention
    return attention(q, k, v, dropout_p, is_causal, False, scale=scale)[0]


def imagine(gigabytes: float, rank: int, ranks: int, objects: Path) -> None:
    """Patch torch to be one rank of a machine with GPUs of that size.

    objects: a file. Rank 0 writes into it what it broadcasts, and the other ranks read it there.
    """
    total = int(gigabytes * 1e9)
    facts = SimpleNamespace(total_memory=total, name="imaginary", major=9, minor=0)
    answers = dict.fromkeys(("set_device", "synchronize", "empty_cache", "_lazy_init"))
    answers |= {"is_available": True, "is_initialized": True, "current_device": 0}
    answers |= {"device_count": ranks, "current_stream": Nothing(), "mem_get_info": (total, total)}
    answers |= {"get_device_properties": facts, "get_device_name": facts.name}
    answers |= {"stream": contextlib.nullcontext()}
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    torch.cuda.Stream = torch.cuda.Event = Nothing
    torch.accelerator.current_stream = torch.cuda.current_stream
    torch.Tensor.pin_memory = lambda tensor, *_, **__: GPU.pin(tensor.clone())
    torch.nn.functional.scaled_dot_product_attention = flash_attention
    # Without an implementation it is decomposed, which takes more memory than CUDA's kernel.
    LIBRARY.impl("silu_backward", lambda grad, x: torch.empty_like(x), "CUDA")
    for name in ("tolist", "numpy"):
        real = getattr(torch.Tensor, name)

        def read(tensor, *options, name=name, real=real, **more):
            if isinstance(tensor, FakeTensor):
                zeros = np.zeros(tensor.shape, str(tensor.dtype).removeprefix("torch."))
                return zeros.tolist() if name == "tolist" else zeros
            return real(tensor, *options, **more)

        setattr(torch.Tensor, name, read)
    imagine_ranks(rank, ranks, objects)
    imagine_transformers()


def imagine_ranks(rank: int, ranks: int, objects: Path) -> None:
    """A process group whose other ranks hold the same as this one."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(ranks)}
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    mesh = fsdp._init_default_mesh()
    fsdp._init_default_mesh = lambda *_, **__: mesh

    sent = [] if rank == 0 else torch.load(objects, weights_only=False)

    def broadcast_object_list(values, *_, **__):
        if rank == 0:
            sent.append(list(values))
            torch.save(sent, objects)
        else:
            values[:] = sent.pop(0)

    def all_gather_object(parts, value, **_):
        parts[:] = [value] * ranks

    dist.all_gather_object = all_gather_object
    dist.broadcast_object_list = broadcast_object_list


def imagine_transformers() -> None:
    """Models whose weights come from their config.json alone."""
    import transformers.utils.import_utils as utils

    # transformers takes fake tensors for those of a compiler's tracing, and then builds masks.
    utils.is_fake_tensor = lambda _: False
    import transformers.modeling_utils

    transformers.modeling_utils.id_tensor_storage = lambda x: (x.device, id(x), x.nbytes)
    kind = transformers.AutoModelForCausalLM

    def from_pretrained(model_dir, dtype=torch.float32, output_loading_info=False):
        config = transformers.AutoConfig.from_pretrained(model_dir)
        with FAKE:
            model = kind.from_config(config, dtype=dtype).eval()
        GPU.count([*model.parameters(), *model.buffers()])
        return (model, {"missing_keys": []}) if output_loading_info else model

    kind.from_pretrained = from_pretrained
