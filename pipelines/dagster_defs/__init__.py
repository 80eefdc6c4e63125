"""What Dagster sees: assets, jobs, sensors, schedules, resources."""
