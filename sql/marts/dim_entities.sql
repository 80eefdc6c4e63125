-- Connections of customers to banks and what became of them: a row per state that the listings
-- showed. States that did not change from listing to listing share a row.
--
-- subject: people and consents
-- grain:  one row per entity and version
-- key:    entity_id, version
-- stored: table
-- apart:  customer by entity_id
-- counts: an entity that a listing leaves out is absent, not deleted: deleted is what Lean says;
--         filter by is_current for one row per entity
-- zone:   instants are UTC, created_date is a Riyadh day; valid_from and valid_to are the times of
--         listings by Lean's clock, from inclusive, to exclusive
-- columns:
--   version      Number of the version, from 1.
--   state        active, disabled, removed or deleted as Lean says; unknown where Lean gives no
--                state; absent where the listing left the entity out.
--   is_current   Whether it is the newest version.
--   created_date  Riyadh day on which the customer first connected.
--   valid_from   When a listing first showed it like this, or first left it out if it is absent.
--   valid_to     When a listing first showed it differently or left it out; null while it is
--                current.
--   pull_id      Listing that first showed the version, or left the entity out; see pulls.
--   status       State in the newest listing that had the entity.
-- sample: select state, count(*) as entities from dim_entities where is_current group by all
select
    -- ids
    rows.entity_id,
    versions.version::integer as version,
    rows.customer_id,
    rows.bank_identifier,

    -- attributes
    rows.bank_type,
    case when versions.is_absent then 'absent' else coalesce(lower(rows.status), 'unknown') end
        as state,
    rows.status,
    rows.permits_identity,
    rows.permits_accounts,
    rows.permits_balance,
    rows.permits_transactions,
    rows.permits_identities,
    rows.permits_scheduled_payments,
    rows.permits_standing_orders,
    rows.permits_direct_debits,
    rows.permits_beneficiaries,

    -- flags
    versions.is_current,

    -- times
    rows.created_at,
    riyadh_date(rows.created_at) as created_date,
    rows.updated_at,
    versions.valid_from,
    versions.valid_to,

    -- trace
    versions.pull_id
from int_listed_versions as versions
inner join entities_history as rows
    on versions.listed_id = rows.entity_id and versions.shown_pull_id = rows.pull_id
where versions.stream = 'entities'
