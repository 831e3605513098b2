"""What a submission does before its turn, since it takes long: fingerprints, headers and uploads of its files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embed_pipeline.errors import DatasetError, EmbedPipelineError, MediaError
from embed_pipeline.orchestration.dataset_witness import DatasetWitness
from embed_pipeline.orchestration.hindrances import Hindrances
from embed_pipeline.orchestration.measuring import candidates_for, measured, probe_all
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.settings import EmbeddingSettings
from embed_pipeline.orchestration.sources import Delivery, delivery_for, prepare
from embed_pipeline.orchestration.submission_plan import Action, Candidate, Decision

if TYPE_CHECKING:
    from embed_pipeline.client import EmbedClient, MediaSource
    from embed_pipeline.media import MediaFile, MediaLibrary

# Enough that a turn has something to create while the next files wait for theirs, and few enough that a submission
# which is stopped has not moved a whole library.
_UPLOADS_PER_WORKER = 2


@dataclass
class Part:
    """Media files that a run submits together, and how far they have come.

    Args:
        files: Each file by partition key.
        candidates: Those that are not dealt with yet, in order.
        missing: Those that are not in the library, with what it says of them.
        looked_for: The candidates that the dataset was asked for, each under the settings' digest it had then.
        witnessed: The tasks whose segments the dataset was found to have, by partition key.
        untold: The keys that were re-attached to such a task, and of whose segments no event tells yet.
        measured: The keys whose headers were read.
        is_ready: Whether nothing was left to prepare when it was last looked.
        uploads: What was uploaded and no task may have been made from, by partition key.
    """

    files: dict[str, MediaFile] = field(default_factory=dict)
    candidates: dict[str, Candidate] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    looked_for: set[tuple[str, str]] = field(default_factory=set)
    witnessed: dict[str, TaskRecord] = field(default_factory=dict)
    untold: list[str] = field(default_factory=list)
    measured: set[str] = field(default_factory=set)
    is_ready: bool = False
    uploads: dict[str, MediaSource] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether every file is dealt with."""
        return not self.candidates and not self.missing


@dataclass
class Preparation:
    """Makes media files ready to be decided on and submitted; decides nothing and creates no task.

    Args:
        library: Where the media files are.
        client: The platform.
        settings: What the files are embedded with.
        platform: The platform's host name, or ``emulator``.
        delivery: How files reach the platform.
        concurrency: Files read or uploaded at once.
        on_problem: Told of each file that cannot be made ready, why, and its fingerprint where that is known.
        hindrances: Told of each upload that went well.
        log: Told in words what is worth reading in the run's log.
        witness: Asked for each file that would be paid for; None where it is to be paid for whatever there is.
    """

    library: MediaLibrary
    client: EmbedClient
    settings: EmbeddingSettings
    platform: str
    delivery: Delivery
    concurrency: int
    on_problem: Callable[[str, Exception, str | None], None]
    hindrances: Hindrances
    log: Callable[[str], None]
    witness: DatasetWitness | None = None

    def read(self, keys: Sequence[str]) -> Part:
        """Look the files up and take their fingerprints."""
        part = Part()
        for key in keys:
            try:
                part.files[key] = self.library.file(key)
            except MediaError as error:
                part.missing[key] = str(error)
        fingerprints = self.library.fingerprints(
            list(part.files.values()), on_problem=lambda file, error: self.on_problem(file.key, error, None)
        )
        part.candidates = candidates_for(part.files, fingerprints, self.settings)
        return part

    def make_ready(self, part: Part, decide: Callable[[], Sequence[Decision]]) -> None:
        """Ask the dataset for the files that would be submitted, read their headers, and upload the first of them.

        Only what would be submitted is opened to learn its length; then limits are counted. What a file really holds
        may tell it apart from one that it was to follow, which is then opened as well.

        Args:
            part: The files.
            decide: What would be done with those that are not dealt with yet, as things look now.
        """
        while new := [key for key in submitted(decide()) if not self._is_known(part, key)]:
            if unasked := [key for key in new if not self._was_looked_for(part, key)]:
                self._look_for(part, unasked)
            else:
                self._measure(part, new)
        if wanted := [key for key in submitted(decide()) if self.must_be_uploaded(part, key)]:
            self._upload(part, wanted[: _UPLOADS_PER_WORKER * self.concurrency])

    def is_ready(self, part: Part, key: str) -> bool:
        """Whether a task could be created for this file right away."""
        return self._is_known(part, key) and not self.must_be_uploaded(part, key)

    def must_be_uploaded(self, part: Part, key: str) -> bool:
        """Whether this file is uploaded to the platform and was not yet."""
        return self.delivery_of(part.files[key]) == "upload" and key not in part.uploads

    def delivery_of(self, file: MediaFile) -> Delivery:
        """How this file reaches the platform."""
        return delivery_for(file, self.delivery, self.platform)

    def source(self, file: MediaFile, candidate: Candidate) -> MediaSource:
        """Make a file readable for the platform; an upload returns when the platform has taken it."""
        return prepare(
            file,
            self.delivery_of(file),
            self.library,
            self.client,
            fingerprint=candidate.fingerprint,
            digest=candidate.settings_digest,
        )

    def delete_unused(self, part: Part) -> None:
        """Take back the uploads that no task was made from, so that nothing is left lying on the platform."""
        for key, source in part.uploads.items():
            try:
                # Once more and no oftener: a platform that does not answer must not hold up the end of a run.
                self.client.assets.delete(str(source.asset_id), request_options={"max_retries": 1})
            except EmbedPipelineError as error:
                self.log(f"{key}: the upload {source.asset_id} was not needed and could not be deleted: {error}")

    def _is_known(self, part: Part, key: str) -> bool:
        """Whether the dataset was asked for this file, and its header read."""
        return key in part.measured and self._was_looked_for(part, key)

    def _was_looked_for(self, part: Part, key: str) -> bool:
        return self.witness is None or (key, part.candidates[key].settings_digest) in part.looked_for

    def _look_for(self, part: Part, keys: Sequence[str]) -> None:
        if self.witness is None:
            return
        for candidate, found in self.witness.look([part.candidates[key] for key in keys]):
            part.looked_for.add((candidate.key, candidate.settings_digest))
            if isinstance(found, DatasetError):
                self.on_problem(candidate.key, found, part.candidates.pop(candidate.key).fingerprint)
            elif found is not None:
                part.witnessed[candidate.key] = found

    def _measure(self, part: Part, keys: Collection[str]) -> None:
        for file, found in probe_all(self.library, [part.files[key] for key in keys], self.concurrency):
            key = file.key
            part.measured.add(key)
            if isinstance(found, MediaError):
                self.on_problem(key, found, part.candidates.pop(key).fingerprint)
            else:
                part.candidates[key], part.files[key] = measured(part.candidates[key], file, found, self.settings)

    def _upload(self, part: Part, keys: Sequence[str]) -> None:
        with ThreadPoolExecutor(self.concurrency) as pool:
            uploads: dict[str, Future[MediaSource]] = {
                key: pool.submit(self.source, part.files[key], part.candidates[key]) for key in keys
            }
        for key, upload in uploads.items():
            error = upload.exception()
            if error is None:
                part.uploads[key] = upload.result()
                self.hindrances.passed()
            elif isinstance(error, Exception):
                self.on_problem(key, error, part.candidates.pop(key).fingerprint)
            else:
                raise error


def submitted(decisions: Sequence[Decision]) -> list[str]:
    """The keys for which a task would be created."""
    return [decision.candidate.key for decision in decisions if decision.action is Action.SUBMIT]
