"""Maintenance: retry, retire, and check that ledger and dataset agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.ledger import MediaRow, MediaState, TaskRow
from embed_pipeline.pipeline.collect import collect
from embed_pipeline.pipeline.context import PipelineContext
from embed_pipeline.pipeline.discover import Retired, import_results, retire
from embed_pipeline.pipeline.settings import EmbeddingSettings, settings_of

if TYPE_CHECKING:
    pass

RETRYABLE = frozenset({MediaState.FAILED, MediaState.EXPIRED})


class UnknownMediaError(EmbedPipelineError):
    """A media file was named that the pipeline does not know."""


class NothingToRetryError(EmbedPipelineError):
    """What was to be retried has not failed."""


class OtherConfigurationError(EmbedPipelineError):
    """A retry would create tasks with other settings, or on another platform, than those that failed."""


@dataclass(frozen=True)
class CheckReport:
    """Outcome of comparing ledger and dataset.

    Args:
        checked: Media files that should have segments.
        missing: Files of segments that are not in the dataset, by partition key.
        damaged: Files of segments that do not open, with the reason, by partition key.
        unknown: Files of segments that the ledger does not know, by path.
        unreported: Changes that Dagster has not been told of.
        in_doubt: Contents of which it is not known whether a task was created.
        repaired: What was done about it, in sentences.
        costs: Minutes that would be paid again to repair the rest.
        unrepaired: Why the rest was not repaired, by partition key.
    """

    checked: int
    missing: Mapping[str, str] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)
    unknown: Sequence[str] = ()
    unreported: int = 0
    in_doubt: Sequence[str] = ()
    repaired: Sequence[str] = ()
    costs: float = 0.0
    unrepaired: Mapping[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with media files, by partition key."""
        return {
            **{key: f"its file of segments is missing ({path})" for key, path in self.missing.items()},
            **{key: f"its file of segments does not open: {why}" for key, why in self.damaged.items()},
        }

    @property
    def is_sound(self) -> bool:
        """Whether ledger and dataset agree."""
        return not (self.missing or self.damaged or self.unknown)


def known_keys(known: Iterable[str], named: Sequence[str]) -> set[str]:
    """Return the partition keys that people mean.

    Args:
        known: Every partition key.
        named: Partition keys or paths of media files.

    Raises:
        UnknownMediaError: A name belongs to no media file; the message has the nearest that does.
    """
    from embed_pipeline.media import encode_partition_key

    keys = set(known)
    found = set()
    for name in named:
        key = name if name in keys else encode_partition_key(name.removeprefix("./"))
        if key not in keys:
            near = get_close_matches(name, sorted(keys), n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else " `embed-pipeline status` lists them."
            raise UnknownMediaError(f"There is no media file {name!r} in this pipeline.{hint}")
        found.add(key)
    return found


def chosen_for_retry(states: Mapping[str, MediaState], named: Sequence[str]) -> list[str]:
    """Choose what is retried.

    Args:
        states: The state of every media file, by partition key.
        named: Partition keys or paths of media files; empty for all that failed or expired.

    Raises:
        UnknownMediaError: A name belongs to no media file.
        NothingToRetryError: None of them failed or expired.
    """
    if not named:
        chosen = [key for key, state in states.items() if state in RETRYABLE]
        if not chosen:
            raise NothingToRetryError(f"Nothing is to be retried: none of {len(states)} media files failed or expired.")
        return chosen
    wanted = known_keys(states, named)
    sound = sorted(key for key in wanted if states[key] not in RETRYABLE)
    if sound:
        words = ", ".join(f"{key} is {states[key].value}" for key in sound[:5])
        raise NothingToRetryError(
            f"Only media files that failed or expired can be retried, and {words}. To pay for a new task all the same, "
            "run the job force_new_task for it, or materialize embedding_tasks with force."
        )
    return [key for key in states if key in wanted]


def require_same_configuration(pipeline: PipelineContext, named: Sequence[str]) -> None:
    """Make sure that a retry asks for what was asked for before.

    Args:
        pipeline: What the retry would go by.
        named: Partition keys or paths of media files; empty for all.

    Raises:
        OtherConfigurationError: What failed was asked for under something else; the message has the first difference.
    """
    keys = pipeline.ledger.keys(pipeline.name)
    wanted = known_keys(keys, named) if named else set(keys)
    rows = pipeline.ledger.rows(pipeline.target, wanted)
    unsubmitted = {row.fingerprint: key for key, row in rows.items() if row.state is MediaState.UNSUBMITTED}
    for fingerprint, task in pipeline.ledger.tasks.ended_otherwise(pipeline.target, unsubmitted).items():
        raise OtherConfigurationError(
            f"What failed of {unsubmitted[fingerprint]} was asked for under {_difference(pipeline, task)}. A retry "
            "asks for the same again, so nothing was created. Name the pipeline's code location (-m MODULE, -f FILE or "
            "-w WORKSPACE), or set the variables that its daemon has. If the change is meant, the job submit_new_media "
            "submits every file that it concerns."
        )


def retire_gone(pipeline: PipelineContext, named: Sequence[str] = ()) -> tuple[Retired, list[str]]:
    """Retire the media files that are gone, but for those whose content a present file waits for.

    Args:
        pipeline: The pipeline.
        named: Partition keys or paths; empty for all that are gone.

    Returns:
        What was retired, and the partition keys that were kept.

    Raises:
        UnknownMediaError: A name belongs to no media file, or to one that is still in the library.
    """
    ledger = pipeline.ledger
    known = ledger.media.known(pipeline.name)
    wanted = known_keys(known, named) if named else set(known)
    gone = [key for key in sorted(wanted) if known[key].is_gone]
    if here := sorted(wanted - set(gone)) if named else []:
        raise UnknownMediaError(f"{', '.join(here[:5])} is still in the library: only what is gone can be retired.")
    awaited = ledger.awaited_contents(pipeline.target)
    kept = [key for key in gone if known[key].fingerprint in awaited]
    return retire(pipeline, [key for key in gone if key not in set(kept)]), kept


def check(pipeline: PipelineContext, *, repair: bool = False) -> CheckReport:
    """Compare what the ledger says with what the dataset holds.

    Args:
        pipeline: The pipeline; with a client where something is to be repaired.
        repair: Fetch results again while the platform keeps them, and import files that the ledger does not know.

    Raises:
        DatasetError: The dataset cannot be read.
        LedgerError: The ledger cannot be reached.
    """
    ledger = pipeline.ledger
    wanted = ledger.segment_sets(pipeline.name, gone=True)
    missing: dict[str, str] = {}
    damaged: dict[str, str] = {}
    found: dict[tuple[str, str], str] = {}
    for file in pipeline.dataset.segment_files():
        key = pipeline.dataset.media_of(file)
        if key is not None:
            found[key, file.settings_digest] = file.path
            if wanted.get(key) == file.settings_digest and (why := pipeline.dataset.check(file.path)) is not None:
                damaged[key] = why
    for key, digest in wanted.items():
        if (key, digest) not in found:
            missing[key] = f"settings={digest}"
    unknown = [path for (key, digest), path in found.items() if wanted.get(key) != digest]
    lapsed = ledger.tasks.lapsed_claims(pipeline.platform, name=pipeline.name)
    report = CheckReport(
        checked=len(wanted),
        missing=missing,
        damaged=damaged,
        unknown=[path for path in unknown if path not in _superseded(found, wanted)],
        unreported=len(ledger.outbox.unreported(pipeline.name)),
        in_doubt=[row.key for row in lapsed if row.sent_at is not None],
    )
    return _repair(pipeline, report) if repair else report


def _repair(pipeline: PipelineContext, report: CheckReport) -> CheckReport:
    """Fetch again what is missing or damaged, as far as that costs nothing."""
    repaired: list[str] = []
    unrepaired: dict[str, str] = {}
    costs = 0.0
    if report.unknown:
        count = import_results(pipeline, again=True)
        repaired.append(f"{count} results that the ledger did not know were imported.")
    if broken := [*report.missing, *report.damaged]:
        pipeline.ledger.media.remove_segments(pipeline.name, broken)
        collected = collect(pipeline, broken)
        repaired.append(f"{len(collected.collected)} of {len(broken)} results were fetched again.")
        rows = pipeline.ledger.rows(pipeline.target, broken)
        for key in broken:
            if key not in collected.collected:
                minutes = _minutes(rows.get(key))
                costs += minutes
                why = collected.failed.get(key) or collected.unseen.get(key) or "its task is still processing"
                unrepaired[key] = f"{why} To embed it again costs {minutes:.1f} media minutes."
    return replace(report, repaired=repaired, costs=costs, unrepaired=unrepaired)


def _minutes(row: MediaRow | None) -> float:
    if row is None:
        return 0.0
    if row.task is not None and row.task.minutes is not None:
        return row.task.minutes
    return (row.duration_sec or 0.0) / 60


def _superseded(found: Mapping[tuple[str, str], str], wanted: Mapping[str, str]) -> set[str]:
    """Return files of a media file's earlier settings, which stay beside the present ones."""
    return {path for (key, digest), path in found.items() if key in wanted and wanted[key] != digest}


def _difference(pipeline: PipelineContext, task: TaskRow) -> str:
    """Return what a task was asked for that these settings, this platform or these bounds are not."""
    if task.content.platform != pipeline.platform:
        return f"another platform ({task.content.platform}, and here it is {pipeline.platform})"
    if task.content.settings_digest in {pipeline.target.audio_digest, pipeline.target.video_digest}:
        return "other bounds on media files"
    before = settings_of(task).spelled_out().model_dump(mode="json")
    here = pipeline.settings.spelled_out().model_dump(mode="json")
    names = [name for name in EmbeddingSettings.model_fields if before[name] != here[name]]
    return "other settings" + (
        f" ({', '.join(f'{name}: {before[name]}, and here {here[name]}' for name in names)})" if names else ""
    )
