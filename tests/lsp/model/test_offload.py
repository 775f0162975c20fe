"""``hardware.offload=true``: who is on the device in which phase. There is no GPU here, so copies
on the same CPU stand in for a device: a model is there where its tensors are not its own."""

import pytest
import torch

from lsp.errors import RunError
from lsp.learner import Learner
from lsp.loop.launch import start
from lsp.model import offload
from lsp.model.offload import on_device
from lsp.players import Players, load_players
from lsp.run.init import resolve_init
from lsp.settings.compose import compose

pytestmark = pytest.mark.usefixtures("without_pictures")


def test_a_model_is_back_where_it_was_also_after_an_error(monkeypatch):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    tensors = [*model.parameters(), *model.buffers()]
    homes = [tensor.data_ptr() for tensor in tensors]
    with on_device(model, torch.device("cpu")):  # it is there: nothing is copied
        assert [tensor.data_ptr() for tensor in tensors] == homes
    monkeypatch.setattr(offload, "copied_to", lambda tensor, device: tensor.clone())
    with pytest.raises(KeyError), on_device(model, torch.device("cpu")):
        assert not {tensor.data_ptr() for tensor in tensors} & set(homes)
        raise KeyError
    assert [tensor.data_ptr() for tensor in tensors] == homes


def test_memory_that_ends_on_the_way_leaves_the_model_whole(monkeypatch):
    model = torch.nn.Linear(3, 2)
    homes = [p.data_ptr() for p in model.parameters()]

    def copied_to(tensor, device):
        if tensor.dim() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return tensor.clone()

    monkeypatch.setattr(offload, "copied_to", copied_to)
    with pytest.raises(torch.OutOfMemoryError), on_device(model, torch.device("cpu")):
        pass
    assert [p.data_ptr() for p in model.parameters()] == homes


def test_it_is_refused_without_a_gpu(small, tmp_path):
    with pytest.raises(RunError, match="this run is on the CPU; choose hardware.offload=false"):
        start([*small, "hardware.offload=true", "runtime.device=cpu", "tracker=none",
               f"run_dir={tmp_path / 'run'}"])  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.fixture
def shape(llama_folder, classifier_folder):
    return [
        "world=paper", f"model.name={llama_folder}", f"reward.name={classifier_folder}",
        "reward.dtype=float32", "method=lsp", "tracker=none", "num_steps=2", "num_queries=4",
        "group_size=2", "prompts.judge=rate", "prompts.challenger='ask {task}{template}'",
        "rollout.max_new_tokens=8", "rollout.max_query_tokens=48",
    ]  # fmt: skip


@pytest.fixture
def seen(monkeypatch):
    """(phase, model) -> where the model was at each of its forward passes; also what was sent to
    the CPU. Phases are the calls of the training loop."""
    places, sent, phase = {}, [], ["loading"]
    monkeypatch.setattr("lsp.players.check_offload", lambda device: None)
    monkeypatch.setattr(offload, "copied_to", lambda tensor, device: tensor.clone())
    to = torch.nn.Module.to

    def moved(self, *arguments, **options):
        if arguments == ("cpu",):
            sent.append(self)
        return to(self, *arguments, **options)

    monkeypatch.setattr(torch.nn.Module, "to", moved)

    def named(name, call):
        def wrapped(*arguments, **options):
            phase[0] = name
            return call(*arguments, **options)

        return wrapped

    for owner, method, name in (
        (Players, "step_queries", "queries"),
        (Players, "answers", "answers"),
        (Players, "qualities", "quality"),
        (Learner, "update", "update"),
    ):
        monkeypatch.setattr(owner, method, named(name, getattr(owner, method)))
    load = load_players

    def loaded(*arguments):
        players = load(*arguments)
        models = {"policy": players.policy, "reference": players.reference}
        if hasattr(players.reward, "model"):
            models["reward model"] = players.reward.model
        for name, model in models.items():
            homes = [p.data_ptr() for p in model.parameters()]

            def look(module, args, output, name=name, model=model, homes=homes):
                here = [p.data_ptr() for p in model.parameters()] != homes
                key = (phase[0], "visiting" if here else "at home")
                places.setdefault(name, set()).add(key)

            decoder = model.get_decoder() if name != "reward model" else model
            decoder.register_forward_hook(look)
        places["players"] = players
        return players

    monkeypatch.setattr("lsp.players.load_players", loaded)
    return places, sent


@pytest.mark.parametrize("method", ["lsp", "frozen_challenger"])
def test_what_has_nothing_to_do_is_away(shape, seen, train_in_memory, method):
    places, sent = seen
    _, rows = train_in_memory([*shape, f"method={method}", "hardware.offload=true"])
    players = places.pop("players")
    frozen = method == "frozen_challenger"
    asks = {("queries", "visiting")} if frozen else set()
    assert places["reference"] == {("quality", "visiting"), ("update", "visiting"), *asks}
    assert {place for _, place in places["reward model"]} == {"visiting"}
    # The one model that is trained is never copied while it is.
    assert ("update", "at home") in places["policy"]
    assert ("update", "visiting") not in places["policy"]
    assert players.reference in sent and players.reward.model in sent
    assert players.policy not in sent
    _, plain = train_in_memory([*shape, f"method={method}"])
    assert rows == plain and any(row["answer"] for row in rows)


def test_under_lora_the_reference_shares_and_stays(shape, seen, train_in_memory):
    places, sent = seen
    train_in_memory([*shape, "hardware.offload=true", "model.lora.rank=4"])
    players = places.pop("players")
    assert players.reference not in sent and players.reward.model in sent
    shared = {p.data_ptr() for p in players.policy.parameters()}
    assert all(p.data_ptr() in shared for p in players.reference.parameters())


def test_a_sum_of_rewards_sends_its_parts_away(seen, classifier_folder):
    _, sent = seen
    config = compose([
        "tracker=none", "hardware.offload=true", "reward=weighted",
        "+reward@reward.parts.model.reward=skywork", "+reward.parts.model.weight=1",
        f"reward.parts.model.reward.name={classifier_folder}",
    ])  # fmt: skip
    players = load_players(config, resolve_init(config), None)
    assert players.reward.rewards["model"].model in sent
    assert len(players.reward(["copy a"], ["a"])) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_the_waiting_models_take_no_memory_there(shape, tmp_path):
    config = compose([*shape, "hardware.offload=true", "runtime.device=cuda"])
    players = load_players(config, resolve_init(config), None)
    kinds = {p.device.type for m in (players.reference, players.reward.model)
             for p in m.parameters()}  # fmt: skip
    assert kinds == {"cpu"} and players.policy.device.type == "cuda"
    before = torch.cuda.memory_allocated()
    with players.reference_at_work():
        assert players.reference.device.type == "cuda"
        assert torch.cuda.memory_allocated() > before
    assert torch.cuda.memory_allocated() == before
    start([*shape, "hardware.offload=true", f"run_dir={tmp_path / 'run'}"])
