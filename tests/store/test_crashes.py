"""SIGKILL at every step: the old artifact or the new one, never half, and nothing stays behind.

A step is whatever changes the store. The operation runs in `stepping.py`, which kills itself before
the step; then another node looks, and the agent that starts again on the node clears up.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest

from chrek import errors, names
from store import places, samples
from store.samples import VARIANT

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
OTHER_VARIANT = "bbbb"
YOUNG_SECONDS = 3600.0
FEWEST_STEPS = 4
"""An operation of fewer is one whose steps are not seen."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the process."""

    steps: int
    """Of the whole operation; 0 when it was killed."""
    announced: list[str]
    """Hash, variant, uuid and digest of what it was about to commit; empty before that."""


class Scene:
    """One kill: a hash of its own, so that no node has ever looked for it."""

    def __init__(self, place: places.Place, kill_at: int) -> None:
        self.place = place
        self.kill_at = kill_at
        self.hash = f"{kill_at:016x}"
        self.other_hash = f"f{kill_at:015x}"
        self.node = place.store("a")

    def make(self, seed: int, variant: str = VARIANT, hash: str = "") -> samples.Sample:
        return samples.commit(self.node, samples.tiny(seed), hash or self.hash, variant)

    def abandon(self, variant: str = VARIANT, hash: str = "") -> None:
        samples.fill(self.node.stage(hash or self.hash, variant), samples.tiny())

    def operate(self, operation: str, *path: str) -> Outcome:
        """Run an operation up to the step at which it is killed, or to its end."""
        wanted = {"operation": operation, "path": path, "seed": 7, "kill_at": self.kill_at}
        argument = json.dumps({**wanted, "recipe": self.place.recipe("a")})
        done = subprocess.run(
            [sys.executable, "-m", "store.stepping", argument],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
        assert ("done" in lines) == (done.returncode == 0)
        return Outcome(int(lines.get("done", "0")), json.loads(lines.get("announced", "[]")))

    def there(self, sample: samples.Sample, node: str = "b") -> bool:
        """Whether it is there, as a whole; false when it is not there at all."""
        store = self.place.store(node)
        try:
            samples.find(store, sample)
        except errors.ArtifactError as err:
            if err.reason != names.Reason.ARTIFACT_MISSING:
                raise
            return False
        samples.check(store, sample)
        return True

    def cleared(self) -> None:
        """The agent starts again, a later commit works, and all goes with the last deletion."""
        self.node.sweep(older_than_seconds=0)
        assert self.node.sweep(older_than_seconds=0) == 0
        later = self.make(9)
        assert self.there(later, "c")
        for identity_hash in (self.hash, self.other_hash):
            self.node.delete(identity_hash, stage_seconds=YOUNG_SECONDS)
        self.node.sweep(older_than_seconds=0)
        assert self.place.listing() == set()


def killed_commit(scene: Scene) -> int:
    old = scene.make(1)
    outcome = scene.operate("commit", scene.hash, VARIANT)
    found = False
    if outcome.announced:
        _, _, uuid, digest = outcome.announced
        new = dataclasses.replace(old, uuid=uuid, digest=digest, files=samples.tiny(7))
        found = scene.there(new)
        assert found or not outcome.steps
        # Whoever restarts neither loses what is committed nor finds what is not.
        scene.node.sweep(older_than_seconds=0)
        assert scene.there(new, "a") == found
    assert scene.there(old)
    scene.cleared()
    return outcome.steps


def killed_first_commit(scene: Scene) -> int:
    """Directories are made, too."""
    outcome = scene.operate("commit", scene.hash, VARIANT)
    scene.cleared()
    return outcome.steps


def killed_deletion_of_one(scene: Scene) -> int:
    victim, kept = scene.make(1), scene.make(2)
    outcome = scene.operate("delete", scene.hash, VARIANT, victim.uuid)
    found = scene.there(victim)
    assert not (found and outcome.steps)
    assert scene.there(kept)
    # It was no stage: its remains need not wait until they are old.
    scene.node.sweep(older_than_seconds=YOUNG_SECONDS)
    if not found and "tree" in scene.place.can:
        assert not [name for name in scene.place.listing() if name.startswith(victim.path)]
    assert scene.there(kept, "a")
    scene.node.delete(scene.hash, VARIANT, victim.uuid, stage_seconds=YOUNG_SECONDS)
    assert not scene.there(victim, "a")
    assert scene.there(kept, "a")
    scene.cleared()
    return outcome.steps


def killed_deletion_of_all(scene: Scene) -> int:
    made = [scene.make(1), scene.make(2), scene.make(3, OTHER_VARIANT)]
    other = scene.make(4, hash=scene.other_hash)
    scene.abandon()
    outcome = scene.operate("delete", scene.hash)
    left = [sample for sample in made if scene.there(sample)]
    assert not (left and outcome.steps)
    assert scene.there(other)
    scene.node.delete(scene.hash, stage_seconds=0)
    for sample in made:
        assert not scene.there(sample, "a")
    assert scene.node.empty(scene.hash)
    assert scene.there(other, "a")
    scene.cleared()
    return outcome.steps


def killed_sweep(scene: Scene) -> int:
    kept = scene.make(1)
    scene.abandon()
    scene.abandon(OTHER_VARIANT)
    scene.abandon(hash=scene.other_hash)
    outcome = scene.operate("sweep")
    assert scene.there(kept)
    scene.node.sweep(older_than_seconds=0)
    assert scene.there(kept, "a")
    assert not scene.place.store("a").sweep(older_than_seconds=0)
    scene.cleared()
    return outcome.steps


SCENARIOS = {
    "commit": killed_commit,
    "first commit": killed_first_commit,
    "deletion of one": killed_deletion_of_one,
    "deletion of all": killed_deletion_of_all,
    "sweep": killed_sweep,
}


def kill(place: places.Place, scenario: str, every: int) -> None:
    """At every such step; once it runs to its end, which tells how many there are."""
    run = SCENARIOS[scenario]
    steps = run(Scene(place, 0))
    assert steps >= FEWEST_STEPS
    for kill_at in range(every, steps + 1, every):
        assert not run(Scene(place, kill_at)), f"step {kill_at} of {steps} was not reached"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_some_steps(place: places.Place, scenario: str) -> None:
    kill(place, scenario, 3)


@pytest.mark.heavy
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_step(place: places.Place, scenario: str) -> None:
    kill(place, scenario, 1)
