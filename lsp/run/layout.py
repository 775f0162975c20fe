"""Settings that an earlier version saved -> the same settings where they are today.

A run's config.yaml is its config for ever; a setting that moved since is put into its new place
when the file is read, and the file itself stays as it is.
"""

from typing import Any

MOVED_TARGETS = {
    "eval.pocket.PocketEvaluation": "lsp.pocket.evaluation.PocketEvaluation",
    "lsp.queries.dataset.PocketQueries": "lsp.pocket.queries.PocketQueries",
    "lsp.rewards.verifier.PocketVerifier": "lsp.pocket.verifier.PocketVerifier",
    "lsp.tracking.base.LocalOnly": "lsp.tracking.trackers.LocalOnly",
}
WORLDS = {"pocket": "lsp.pocket.world.PocketWorld", "paper": "lsp.paper.world.PaperWorld"}


def in_todays_layout(tree: dict[str, Any]) -> dict[str, Any]:
    """A copy; settings that are in today's layout already stay as they are, key by key."""
    tree = _with_moved_targets(tree)
    if isinstance(tree.get("world"), str) and tree["world"] in WORLDS:
        tree["world"] = {"_target_": WORLDS[tree["world"]]}
    judge, rollout, tracker = (tree.get(key) for key in ("self_reward", "rollout", "tracker"))
    if isinstance(judge, dict) and "_target_" not in judge:
        tree["self_reward"] = {"_target_": "lsp.rewards.self_reward.RubricJudge", **judge}
    if isinstance(rollout, dict) and "engine" not in rollout:
        rollout["engine"] = {"_target_": "lsp.rollout.settings.InProcess"}
    key, optim = "role_gradients_every", tree.get("optim")
    if isinstance(tracker, dict) and isinstance(optim, dict) and key in tracker:
        optim[key] = tracker.pop(key)
    return tree


def _with_moved_targets(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_moved_targets(item) for item in node]
    if not isinstance(node, dict):
        return node
    copy = {key: _with_moved_targets(value) for key, value in node.items()}
    if isinstance(target := copy.get("_target_"), str):
        copy["_target_"] = MOVED_TARGETS.get(target, target)
    return copy
