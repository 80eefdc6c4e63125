-- Customers of the application: what they connected and whether it may be read now.
--
-- subject: people and consents
-- grain:  one row per customer
-- key:    customer_id
-- stored: table
-- apart:  customer by customer_id
-- counts: every customer who was ever listed, or whose entity was
-- columns:
--   customer_id           Lean's id of the customer.
--   entity_count          Entities that the customer ever had.
--   active_entity_count   Those that are neither deleted, removed, disabled nor absent.
--   bank_identifiers      Banks of the active entities, sorted; empty without an active entity.
--   bank_count            Number of these banks.
--   active_consent_count  Consents that Lean calls active and whose own end had not passed at the
--                         lake's clock.
--   next_expiry_date      Riyadh day on which the first of these consents ends; null where they
--                         have no end.
--   account_count         Real accounts that the customer ever shared; see dim_accounts.
--   is_listed             Whether the newest listing has the customer.
--   first_seen_at         When a listing first had the customer, by Lean's clock, UTC.
--   last_seen_at          When a listing last had the customer, by Lean's clock, UTC.
--   as_of                 The lake's clock that consents were compared with.
-- sample: select bank_count, count(*) as customers from dim_customers group by all order by all
with seen as (

    select
        customer_id,
        coalesce(known_at, asked_at) as asked_at
    from customers_history

    union all

    select
        customer_id,
        coalesce(known_at, asked_at) as asked_at
    from entities_history
    where customer_id is not null  -- could not be read

),

named as (

    select
        customer_id,
        min(asked_at) as first_seen_at,
        max(asked_at) as last_seen_at
    from seen
    group by customer_id

),

newest as (

    select
        customer_id,
        app_user_id
    from customers_history
    qualify
        row_number() over (
            partition by customer_id
            order by
                coalesce(known_at, asked_at) desc,
                coalesce(generation, 0) desc,
                pull_tie(generation, pull_id) desc
        ) = 1

),

connected as (

    select
        customer_id,
        count(*) as entity_count,
        count(*) filter (where state in ('active', 'unknown')) as active_entity_count,
        coalesce(
            list_sort(
                list(distinct bank_identifier) filter (where state in ('active', 'unknown'))
            ),
            []
        ) as bank_identifiers
    from dim_entities
    where is_current
    group by customer_id

),

consented as (

    select
        customer_id,
        count(*) as active_consent_count,
        min(expires_date) as next_expiry_date
    from dim_consents
    where is_current and state = 'active'
    group by customer_id

),

shared as (

    select
        customer_id,
        count(distinct account_key) as account_count
    from bridge_accounts
    group by customer_id

)

select
    -- ids
    named.customer_id,
    newest.app_user_id,

    -- counts
    coalesce(connected.entity_count, 0) as entity_count,
    coalesce(connected.active_entity_count, 0) as active_entity_count,
    coalesce(len(connected.bank_identifiers), 0) as bank_count,
    coalesce(connected.bank_identifiers, []) as bank_identifiers,
    coalesce(consented.active_consent_count, 0) as active_consent_count,
    coalesce(shared.account_count, 0) as account_count,

    -- flags
    customers.customer_id is not null as is_listed,

    -- times
    consented.next_expiry_date,
    named.first_seen_at,
    named.last_seen_at,
    clock.as_of
from named
cross join clock
left join newest on named.customer_id = newest.customer_id
left join customers on named.customer_id = customers.customer_id
left join connected on named.customer_id = connected.customer_id
left join consented on named.customer_id = consented.customer_id
left join shared on named.customer_id = shared.customer_id
