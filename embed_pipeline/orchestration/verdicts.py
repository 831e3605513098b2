"""Problems of media files as the result of a check, and back: what one run found is not forgotten by the next.

A check has one latest result, and a run sees only its own media files. So each result also carries the problems that
earlier ones found in media files which this run did not look at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import dagster as dg

from embed_pipeline.orchestration.metadata import problem_table

PROBLEMS = "embed_pipeline/problems"
CHECKED = "embed_pipeline/checked"
WRONG = "embed_pipeline/media_files_with_a_problem"
POSITION = "embed_pipeline/position"
_CARRIED = 1000
_TOLD = 3


def still_wrong(
    earlier: Mapping[str, str], *, checked: Collection[str], found: Mapping[str, str], existing: Collection[str]
) -> dict[str, str]:
    """The problems as they are after some media files were checked.

    Args:
        earlier: The problems before.
        checked: The media files that were looked at.
        found: What is wrong with them.
        existing: The media files that still have a partition.
    """
    looked_at, present = set(checked), set(existing)
    kept = {key: problem for key, problem in earlier.items() if key not in looked_at and key in present}
    return {**kept, **found}


def verdict(
    name: str,
    problems: Mapping[str, str],
    *,
    checked: int,
    fine: str,
    severity: dg.AssetCheckSeverity,
    asset_key: dg.AssetKey | None = None,
    position: int | None = None,
) -> dg.AssetCheckResult:
    """The result of a check.

    Args:
        name: The check's name.
        problems: What is wrong and what to do, by partition key.
        checked: How many media files were looked at.
        fine: What there is to say where nothing is wrong.
        severity: How bad a problem is.
        asset_key: The asset, where the check stands apart from it.
        position: Up to which event of the asset problems were read; None where they are not read from events.
    """
    told = [f"{key}: {problem}" for key, problem in list(problems.items())[:_TOLD]]
    more = [f"... and {len(problems) - _TOLD} more in the table of problems."] if len(problems) > _TOLD else []
    return dg.AssetCheckResult(
        passed=not problems,
        check_name=name,
        asset_key=asset_key,
        severity=severity,
        description="\n".join([*told, *more]) or fine,
        metadata={
            CHECKED: checked,
            WRONG: len(problems),
            **({} if position is None else {POSITION: position}),
            **({PROBLEMS: problem_table(problems, longest=_CARRIED)} if problems else {}),
        },
    )


def problems_of(evaluation: dg.AssetCheckEvaluation | None) -> dict[str, str]:
    """The problems that an earlier result of a check told of."""
    table = None if evaluation is None else evaluation.metadata.get(PROBLEMS)
    if not isinstance(table, dg.TableMetadataValue):
        return {}
    return {str(record.data["media"]): str(record.data["problem"]) for record in table.records}


def position_of(evaluation: dg.AssetCheckEvaluation | None) -> int:
    """Up to which event an earlier result of a check had read problems; 0 where there is none."""
    value = None if evaluation is None else evaluation.metadata.get(POSITION)
    return value.value if isinstance(value, dg.IntMetadataValue) and value.value is not None else 0
