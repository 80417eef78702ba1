"""`loom status`, `doctor`: how things stand."""

from __future__ import annotations

import json
import sys

import typer

from loom.commands.common import AsJson, Data, Database, Project, print_rows, settings_of


def status(as_json: AsJson = False, project: Project = None, data: Data = None, database: Database = None) -> None:
    """Show what is live, in training, answered and spent.

    What is spent is the tokens and the money that the teacher took.

    Example: loom status
    """
    sql = (
        "SELECT 'live' AS what, adapter AS name, live_version::text AS value FROM adapter_aliases WHERE live_version > 0 UNION ALL "
        "SELECT 'runs ' || status, adapter, count(*)::text FROM runs GROUP BY status, adapter UNION ALL "
        "SELECT 'requests', status, count(*)::text FROM completions GROUP BY status UNION ALL "
        "SELECT 'dead letters', stage, count(*)::text FROM dead_letters GROUP BY stage UNION ALL "
        "SELECT 'teacher requests', teacher, requests::text FROM teacher_usage UNION ALL SELECT 'teacher tokens', teacher, (input_tokens + output_tokens)::text FROM teacher_usage UNION ALL "
        "SELECT 'teacher usd', teacher, round(usd::numeric, 4)::text FROM teacher_usage UNION ALL "
        "SELECT 'teacher usd a chunk', teacher, round((sum(usd) / count(DISTINCT chunk_id))::numeric, 6)::text FROM teacher_units GROUP BY teacher ORDER BY 1, 2"
    )
    print_rows(sql, ["what", "name", "value"], as_json, project, data, database)


def doctor(project: Project = None, data: Data = None, as_json: AsJson = False) -> None:
    """Check this machine, the project file and the packages.

    Says what to do about each fault.

    Example: loom doctor
    """
    from loom.doctor import checks

    results = checks(settings_of(project=project, data=data))
    if as_json:
        typer.echo(json.dumps([{"check": c.name, "ok": c.ok, "detail": c.detail} for c in results]))
    else:
        for c in results:
            typer.echo(f"{'ok  ' if c.ok else 'FAIL'} {c.name}: {c.detail}")
    sys.exit(0 if all(c.ok for c in results) else 1)
