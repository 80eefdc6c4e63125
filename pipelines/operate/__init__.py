"""What people on duty look at: what is wrong, the daily report, damage, leftovers."""
