from flows.cli import entry

raise SystemExit(entry())
