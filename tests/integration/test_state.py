"""The state of a method as a part of the model that it is assigned to, through the tools that save models."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from every_method import STATEFUL, Loop, Model, assert_same_state, batch_of, make, step, take_grads
from mmpareto import METHODS, MMPareto
from mmpareto.integration.method import Method
from mmpareto.integration.methods.refresh import Refresh
from torch import distributed as dist
from torch import nn
from torch.utils.data import DataLoader

KEY = "integrate._extra_state"
AGGREGATORS = ("torchjd:ExcessMTL", "torchjd:GradVac", "torchjd:PCD")
WITH_STATE = [*STATEFUL, "ogm", "ogm_ge", "pretrain_finetune", "smv", "refresh", *AGGREGATORS]
WITHOUT_STATE = [*(name for name in METHODS if name not in WITH_STATE), "torchjd:UPGrad"]
BATCHES = [batch_of(seed=seed) for seed in range(4)]


def new(name: str) -> Method:
    if name == "refresh":
        return Refresh(MMPareto.paper(), 3)
    if name.startswith("torchjd:"):
        pytest.importorskip("torchjd")
        return METHODS[name](**({"tau": 0.1} if name == "torchjd:PCD" else {}))
    return make(name)


def owner_of(method: Method | None, seed: int = 0) -> Model:
    """Return a model to which the method is assigned; none if it is None."""
    model = Model(seed=seed)
    if method is not None:
        model.integrate = method
    return model


def trained(name: str) -> Model:
    """Return a model with its method after two steps, the first ones of an epoch."""
    model = owner_of(new(name))
    loop = Loop(model, BATCHES[0])
    model.integrate.begin_training(loop)
    model.integrate.begin_epoch(loop)
    for batch in BATCHES[:2]:
        step(model.integrate, loop, batch)
        take_grads(model)
    return model


def saved_and_loaded(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same_continuation(model: Model, other: Model) -> None:
    """Assert that the next two steps of both are the same, bit for bit, and so are their states after it."""
    assert_same_state(other.integrate.state_dict(), model.integrate.state_dict())
    loops = [Loop(model, BATCHES[0]), Loop(other, BATCHES[0])]
    other.integrate.begin_training(loops[1])
    for batch in BATCHES[2:]:
        for loop in loops:
            step(loop.network.integrate, loop, batch, seed=7)
        assert_same_state(take_grads(other), take_grads(model))
    assert_same_state(other.integrate.state_dict(), model.integrate.state_dict())


# --- PyTorch ---


@pytest.mark.parametrize("name", WITH_STATE)
def test_the_model_s_checkpoint_continues_the_method_bit_for_bit(name: str) -> None:
    model = trained(name)
    state = saved_and_loaded(model.state_dict())
    assert [key for key in state if key.startswith("integrate")] == [KEY]
    assert state[KEY].dtype == torch.uint8 and state[KEY].dim() == 1
    other = owner_of(new(name), seed=1)
    assert other.load_state_dict(state) == ([], [])
    assert_same_continuation(model, other)


@pytest.mark.parametrize("name", WITHOUT_STATE)
def test_a_method_without_state_adds_nothing(name: str) -> None:
    method = new(name)
    assert list(owner_of(method).state_dict()) == list(Model().state_dict())
    assert owner_of(method).load_state_dict(Model(seed=1).state_dict()) == ([], [])  # and does not warn
    assert method.state_dict() == {}


@pytest.mark.parametrize("name", WITH_STATE)
def test_an_older_checkpoint_loads_with_one_warning(name: str) -> None:
    method = new(name)
    before = copy.deepcopy(method.state_dict())
    with pytest.warns(UserWarning, match=KEY) as warned:
        assert owner_of(method).load_state_dict(Model(seed=1).state_dict()) == ([], [])
    assert len(warned) == 1
    assert_same_state(method.state_dict(), before)


def test_the_state_of_another_method_is_an_error_that_names_it() -> None:
    state = trained("gradnorm").state_dict()
    with pytest.raises(RuntimeError, match=rf"{KEY}.*first_losses.*AGM"):
        owner_of(new("agm")).load_state_dict(state)
    for owner in (owner_of(new("mmpareto")), owner_of(None)):
        with pytest.raises(RuntimeError, match=rf"Unexpected key.*{KEY}"):
            owner.load_state_dict(state)
        assert owner.load_state_dict(state, strict=False) == ([], [KEY])


@pytest.mark.parametrize("damage", [lambda x: x[:-100], lambda x: x[:0], lambda x: x.double() / 3])
def test_a_damaged_state_is_an_error_that_names_it(damage: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model = trained("gradnorm")
    before = copy.deepcopy(model.integrate.state_dict())
    with pytest.raises(RuntimeError, match=KEY):
        model.load_state_dict(model.state_dict() | {KEY: damage(model.state_dict()[KEY])})
    assert_same_state(model.integrate.state_dict(), before)


def test_a_state_runs_no_code() -> None:
    file = io.BytesIO()
    torch.save({"loss_weights": {}, "first_losses": Path("x")}, file)  # a class that `weights_only` does not allow
    state = Model().state_dict() | {KEY: torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)}
    with pytest.raises(RuntimeError, match=KEY):
        owner_of(new("gradnorm")).load_state_dict(state)


@pytest.mark.parametrize("name", [*METHODS, *AGGREGATORS, "torchjd:UPGrad", "refresh"])
def test_a_method_has_no_parameters_and_holds_no_module_but_methods(name: str) -> None:
    model = trained(name)
    assert not [*model.integrate.parameters(), *model.integrate.buffers()]
    assert all(isinstance(module, Method) for module in model.integrate.modules())
    assert [*model.parameters()] == [
        p for child in (model.encoders, model.fusion, model.heads) for p in child.parameters()
    ]


@pytest.mark.parametrize("name", WITH_STATE)
def test_the_owner_can_be_copied_and_converted(name: str) -> None:
    model = trained(name)
    model.integrate.reduce = None
    before = copy.deepcopy(model.integrate.state_dict())
    visited: list[nn.Module] = []
    other = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    other.apply(visited.append).half().to("cpu").double().eval().train().requires_grad_(True)
    assert other.integrate in visited and other.integrate is not model.integrate and other.integrate.reduce is None
    assert_same_state(other.integrate.state_dict(), before)
    other.load_state_dict(model.state_dict())  # the weights were rounded
    assert_same_continuation(model, other)


def test_a_part_of_the_owner_s_state_and_nested_owners() -> None:
    model, name = trained("refresh"), "integrate."
    inner = {key.removeprefix(name): x for key, x in model.state_dict().items() if key.startswith(name)}
    fresh = new("refresh")
    fresh.load_state_dict(inner)
    assert_same_state(fresh.state_dict(), model.integrate.state_dict())
    outer = nn.ModuleDict({"model": model, "list": nn.ModuleList([fresh])})
    assert [key for key in outer.state_dict() if "_extra" in key] == [f"model.{KEY}", "list.0._extra_state"]


def test_a_method_is_not_called_like_a_layer() -> None:
    with pytest.raises(TypeError, match="backward"):
        MMPareto()(torch.ones(()), {})


class Layer(nn.Module):
    def __init__(self, method: Method) -> None:
        super().__init__()
        self.layer, self.integrate = nn.Linear(2, 1), method

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@pytest.mark.parametrize("name", ["mmpareto", "gradnorm", "refresh", "torchjd:GradVac"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_owner_can_be_scripted(name: str) -> None:
    owner, x = Layer(new(name)), torch.ones(1, 2)
    torch.testing.assert_close(torch.jit.script(owner)(x), owner(x))


# --- other tools ---


def test_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    model, other = trained("pmr"), owner_of(new("pmr"), seed=1)
    safetensors.save_model(model, tmp_path / "model.safetensors")
    assert safetensors.load_model(other, tmp_path / "model.safetensors") == (set(), [])
    assert_same_continuation(model, other)


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "plain": lambda model: model,
    "DDP": nn.parallel.DistributedDataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
}


@pytest.mark.slow
@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(
    "options", [{}, {"full_state_dict": True}, {"full_state_dict": True, "broadcast_from_rank0": True}]
)
def test_distributed_checkpoint(wrapper: str, options: dict[str, bool]) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict

    wrap, chosen = WRAPPERS[wrapper], StateDictOptions(**options)
    model, other = trained("gradnorm"), owner_of(new("gradnorm"), seed=1)
    state = get_model_state_dict(wrap(model), options=chosen)
    assert KEY in state  # without the wrapper's prefix
    set_model_state_dict(wrap(other), dict(state), options=chosen)
    assert_same_continuation(model, other)
    older = get_model_state_dict(wrap(Model()), options=chosen)
    set_model_state_dict(wrap(owner_of(new("mmpareto"))), dict(older), options=chosen)
    if wrapper == "plain":  # PyTorch raises for the other two: set_model_state_dict renames keys, and misses this one
        with pytest.warns(UserWarning, match=KEY):
            set_model_state_dict(owner_of(new("gradnorm")), dict(older), options=chosen)


@pytest.mark.slow
@pytest.mark.parametrize("assigned", [True, False])
def test_accelerate(tmp_path: Path, assigned: bool) -> None:
    """As a part of the model, in model.safetensors, and registered for checkpointing, in a file of its own."""
    accelerate = pytest.importorskip("accelerate")
    models = trained("agm"), owner_of(new("agm"), seed=1)
    for index, model in enumerate(models):
        method = model.integrate
        if not assigned:
            del model.integrate
        accelerator = accelerate.Accelerator(cpu=True)
        accelerator.prepare(model)
        if not assigned:
            accelerator.register_for_checkpointing(method)
        if index == 0:
            accelerator.save_state(tmp_path)
            names = {path.name for path in tmp_path.iterdir()}
            assert "model.safetensors" in names and ("custom_checkpoint_0.pkl" in names) == (not assigned)
        else:
            accelerator.load_state(tmp_path)
        model.integrate = method
    assert_same_continuation(*models)


@pytest.mark.slow
def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        automatic_optimization = False

        def __init__(self, seed: int = 1) -> None:
            super().__init__()
            self.network, self.integrate = Model(seed=seed), new("metabalance")

        def training_step(self, batch: Any, index: int) -> None:
            step(self.integrate, Loop(self.network, batch), batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    module = Module(seed=0)
    trainer.fit(module, DataLoader(BATCHES[:2], batch_size=None))
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    again = Module.load_from_checkpoint(tmp_path / "last.ckpt", map_location="cpu", weights_only=True)
    assert module.integrate.state_dict()["averages"]
    assert_same_state(again.integrate.state_dict(), module.integrate.state_dict())
    assert_same_state(again.state_dict(), module.state_dict())
