-- Times that Lean asked a bank for an entity's data.
--
-- grain:  one row per refresh
-- key:    refresh_id
-- stored: view
-- zone:   instants are UTC, days are Riyadh days
-- columns:
--   created_date  Riyadh day on which the refresh was asked for.
select
    refreshes.*,
    riyadh_date(refreshes.created_at) as created_date
from refreshes
