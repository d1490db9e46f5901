"""Which plans a gate may release, given what the tick before came to.

Everyone who holds the rows before a plan can say so, since nothing else enters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .admitted import Admitted
from .errors import Refused
from .manifest import Manifest
from .release import Base, Plan
from .round import Members
from .session import verify_session

End = Literal["new", "committed", "changed", "measured", "answered", "voided"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the newest tick came to.

    before: its plan, None before the first tick. end: how it ended, "new" before the first. base, members: the state
    from which to go on, and who holds its stages.
    """

    before: Plan | None
    end: End
    base: Base | None
    members: Members


def verify_plan(plan: Plan, manifest: Manifest, admitted: Admitted, outcome: Outcome) -> None:
    """Check that a plan is within the rules.

    Raises:
        Refused: E316, a grant; E318, anything else.
    """
    _verify_lists(plan, manifest, admitted)
    before = outcome.before
    if before is None or (outcome.base is None and outcome.end == "voided"):
        _verify_start(plan, manifest, admitted)
        return
    if plan.change == "start":
        raise Refused(318, "a run starts once")
    if plan.base != outcome.base:
        raise Refused(318, "the plan starts from another base than the last committed one")
    if plan.change == "members":
        _verify_change(plan, manifest, admitted, outcome.members)
    elif plan.members != outcome.members:
        raise Refused(318, "the plan's members are not those of the last change")
    _verify_progress(plan, manifest, before, outcome.end)
    for assigned in plan.work:
        if len(assigned) != len(outcome.members) or any(r >= len(outcome.members[s]) for s, r in enumerate(assigned)):
            raise Refused(318, "the plan gives a micro-batch to a replica that does not exist")


def _verify_lists(plan: Plan, manifest: Manifest, admitted: Admitted) -> None:
    """Check that lists have an entry for each thing they speak of: nodes and relays index into them unasked."""
    training = manifest.training
    if (plan.kind == "change") != bool(plan.change):
        raise Refused(318, f"a {plan.kind} plan with change '{plan.change}'")
    if (plan.members if plan.change == "start" else () if plan.change == "members" else plan.candidates) != ():
        raise Refused(318, "a start names candidates, a change of members both, every other plan members")
    if plan.change != "members" and (plan.bound or plan.leaving):
        raise Refused(318, f"a {plan.kind} plan that binds candidates or lets members leave")
    if len(plan.exponents) != manifest.stages - 1 or len(plan.lifts) != manifest.stages:
        raise Refused(318, "the plan needs one exponent a boundary and one lift a stage")
    if not 1 <= len(plan.relays) <= manifest.relays or len(set(plan.relays)) != len(plan.relays):
        raise Refused(318, "the plan's relays", expected=f"1 to {manifest.relays}", actual=len(set(plan.relays)))
    if not set(plan.relays) <= admitted.of("relay"):
        raise Refused(318, "the plan names a relay that never joined")
    if (plan.kind == "session") != (plan.session is not None):
        raise Refused(318, f"a {plan.kind} plan and a session that do not go together")
    wanted = training.microbatches
    if plan.session is not None:
        verify_session(plan.session, manifest)
        if plan.session.asker not in admitted.of("asker"):
            raise Refused(318, "a session of somebody who did not join to ask")
        wanted = len(plan.session.shapes)
    if plan.kind == "evaluate":
        wanted = (manifest.data.validation_bytes - 1) // manifest.model.context // training.rows
    if len(plan.work) != (0 if plan.change else wanted):
        raise Refused(318, "the plan's micro-batches", expected=wanted, actual=len(plan.work))


def _verify_start(plan: Plan, manifest: Manifest, admitted: Admitted) -> None:
    if plan.change != "start" or plan.base is not None or plan.round or plan.epoch or plan.epoch_tick:
        raise Refused(318, "the first plan of a run is its start")
    wanted = manifest.stages * manifest.replicas
    if len(plan.candidates) < wanted:
        actual = len(set(plan.candidates))
        raise Refused(318, "the start names nodes", expected=f"at least {wanted}", actual=actual)
    _verify_candidates(plan, admitted)


def _verify_progress(plan: Plan, manifest: Manifest, before: Plan, end: End) -> None:
    """Check that round and epoch are those that follow the tick before."""
    done = before.round + (before.kind == "train" and end == "committed")
    if plan.round != done:
        raise Refused(318, "the plan's round", expected=done, actual=plan.round)
    turned = end == "changed"
    epoch = before.epoch - (before.change == "turn" and not turned)  # the epoch of the base
    if plan.epoch != epoch + (plan.change == "turn"):
        raise Refused(318, "the plan's epoch", expected=epoch + (plan.change == "turn"), actual=plan.epoch)
    epoch_tick = before.tick if turned and before.change != "members" else before.epoch_tick
    if plan.epoch_tick != epoch_tick:
        raise Refused(318, "the tick that began the epoch", expected=epoch_tick, actual=plan.epoch_tick)
    due = plan.round // manifest.training.epoch_rounds
    if plan.kind not in ("evaluate", "session") and plan.change != "members" and plan.epoch != due:
        raise Refused(318, f"the epoch of round {plan.round}", expected=due, actual=plan.epoch)
    limit = manifest.training.rounds
    if plan.kind in ("train", "measure") and plan.round >= limit:
        raise Refused(318, "the run has taken all its rounds", expected=f"< {limit}", actual=plan.round)


def _verify_change(plan: Plan, manifest: Manifest, admitted: Admitted, members: Members) -> None:
    """Who stays were members, at least one a stage; who may come is bound to the stage that its operator held."""
    stages, limit = manifest.stages, manifest.replicas
    if not len(plan.members) == len(members) == stages or not all(
        stay and tuple(sorted(set(stay))) == stay and set(stay) <= set(were)
        for stay, were in zip(plan.members, members, strict=True)
    ):
        raise Refused(318, "who stays in a change of members were not all members of the same stage")
    staying = [who for stage in plan.members for who in stage]
    were = {who for stage in members for who in stage}
    if any(len(stage) > limit for stage in plan.members) or not set(plan.leaving) <= were:
        raise Refused(318, "a change of members has more replicas than the run, or somebody leaves twice")
    _verify_candidates(plan, admitted)
    if plan.bound != tuple(map(admitted.bound, plan.candidates)):
        raise Refused(316, "candidates are not bound to the stages that their operators held")
    taken = set(map(admitted.owner, staying))
    if taken & set(map(admitted.owner, plan.candidates)):
        raise Refused(316, "an operator who stays would get a second replica")


def _verify_candidates(plan: Plan, admitted: Admitted) -> None:
    """Everyone who may be drawn joined as a node, and for an operator of its own."""
    if not set(plan.candidates) <= admitted.of("node"):
        raise Refused(318, "a plan names a candidate that did not join as a node")
    if len(set(map(admitted.owner, plan.candidates))) != len(plan.candidates):
        raise Refused(316, "a plan names two candidates of one operator")
