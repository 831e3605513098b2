"""The Dagster side: resources, partitions, ledger, plans, assets, checks, sensors, schedules and the component."""
