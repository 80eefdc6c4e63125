-- Connections of customers to banks and what became of them: a row per state that the listings
-- showed, states that did not change in between taken together.
--
-- grain:  one row per entity and version
-- key:    entity_id, version
-- stored: table
-- counts: an entity that a listing leaves out is absent, not deleted: deleted is what Lean says;
--         filter by is_current for one row per entity
-- zone:   instants are UTC, created_date is a Riyadh day; valid_from and valid_to are the times of
--         listings by this machine's clock, from inclusive, to exclusive
-- columns:
--   version      Number of the version, from 1.
--   state        active, disabled, removed or deleted in Lean's words, unknown where Lean tells
--                none, absent where the listing left the entity out.
--   is_current   Whether it is the newest version.
--   created_date  Riyadh day on which the customer first connected.
--   valid_from   When it was first listed like this; of an absent entity, when it was first left
--                out.
--   valid_to     When it was first listed otherwise or left out; null while it is current.
--   pull_id      Listing that first showed the version, or left the entity out; see pulls.
--   status       State as the newest listing with the entity told it.
-- sample: select state, count(*) as entities from dim_entities where is_current group by all
with listings as (

    select
        pull_id,
        asked_at,
        row_number() over (order by asked_at, pull_id) as place,
        count(*) over () as places
    from pulls
    where stream = 'entities' and outcome = 'COMMITTED'

),

shown as (

    select
        listings.place,
        listings.places,
        rows.*,
        row(
            rows.customer_id, rows.bank_identifier, rows.bank_type, rows.status, rows.created_at,
            rows.updated_at, rows.permits_identity, rows.permits_accounts, rows.permits_balance,
            rows.permits_transactions, rows.permits_identities, rows.permits_scheduled_payments,
            rows.permits_standing_orders, rows.permits_direct_debits, rows.permits_beneficiaries
        ) as told
    from entities_history as rows
    inner join listings on rows.pull_id = listings.pull_id

),

neighbours as (

    select
        *,
        lag(place) over (partition by entity_id order by place) as earlier_place,
        lag(told) over (partition by entity_id order by place) as earlier_told,
        lead(place) over (partition by entity_id order by place) as later_place
    from shown

),

states as (

    select
        *,
        place as since_place,
        false as is_absent
    from neighbours
    where earlier_place is distinct from place - 1 or earlier_told is distinct from told

    union all

    select
        *,
        place + 1 as since_place,
        true as is_absent
    from neighbours
    where place < places and later_place is distinct from place + 1

)

select
    -- ids
    states.entity_id,
    row_number() over (
        partition by states.entity_id
        order by states.since_place
    )::integer as version,
    states.customer_id,
    states.bank_identifier,

    -- attributes
    states.bank_type,
    case when states.is_absent then 'absent' else coalesce(lower(states.status), 'unknown') end
        as state,
    states.status,
    states.permits_identity,
    states.permits_accounts,
    states.permits_balance,
    states.permits_transactions,
    states.permits_identities,
    states.permits_scheduled_payments,
    states.permits_standing_orders,
    states.permits_direct_debits,
    states.permits_beneficiaries,

    -- flags
    lead(states.since_place) over (
        partition by states.entity_id
        order by states.since_place
    ) is null as is_current,

    -- times
    states.created_at,
    riyadh_date(states.created_at) as created_date,
    states.updated_at,
    listings.asked_at as valid_from,
    lead(listings.asked_at) over (
        partition by states.entity_id
        order by states.since_place
    ) as valid_to,

    -- trace
    listings.pull_id
from states
inner join listings on states.since_place = listings.place
