"""What people on duty look at: health, alerts, metrics, the daily report, damage, leftovers."""
