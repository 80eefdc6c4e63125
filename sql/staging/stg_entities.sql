-- Connections of customers to banks.
--
-- grain:  one row per entity
-- key:    entity_id
-- stored: view
-- zone:   instants are UTC, days are Riyadh days
-- columns:
--   created_date  Riyadh day on which the customer connected.
select
    entities.*,
    riyadh_date(entities.created_at) as created_date
from entities
