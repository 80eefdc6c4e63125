-- What customers permitted, until when, and how it ended: a row per state that the listings showed,
-- states that did not change in between taken together.
--
-- grain:  one row per consent and version
-- key:    consent_id, version
-- stored: table
-- counts: expiry is computed from the consent's own end against the lake's clock, because Lean
--         shows it up to a day late and as REVOKED; filter by is_current for one row per consent
-- zone:   instants are UTC, dates are Riyadh days; valid_from and valid_to are the times of
--         listings by this machine's clock, from inclusive, to exclusive
-- columns:
--   version                 Number of the version, from 1.
--   state                   What became of it by the lake's clock, told by this version: active;
--                           expired, its own end came first; revoked or rejected before that;
--                           absent where the listing left the consent out; else unknown.
--   is_expired              Whether its own end had passed at the lake's clock; null without one.
--   is_current              Whether it is the newest version.
--   days_to_expiry          Riyadh days from the lake's clock to its own end, below zero once
--                           passed; null without an end.
--   created_date            Riyadh day on which the consent was given.
--   expires_date            Riyadh day of its own end.
--   ended_at                When it ended, by its own end or before it; null while it has not, and
--                           where Lean does not tell when it was revoked.
--   transactions_from_date  Riyadh day of the first instant whose transactions may be read.
--   transactions_to_date    Riyadh day of the last instant whose transactions may be read.
--   valid_from              When it was first listed like this; of an absent consent, when it was
--                           first left out.
--   valid_to                When it was first listed otherwise or left out; null while it is
--                           current.
--   as_of                   The lake's clock that it was judged against.
--   pull_id                 Listing that first showed the version, or left the consent out; see
--                           pulls.
-- sample: select bank_identifier, days_to_expiry, count(*) as consents from dim_consents
--         where is_current and state = 'active' and days_to_expiry <= 30 group by all order by all
with listings as (

    select
        pull_id,
        asked_at,
        row_number() over (order by asked_at, pull_id) as place,
        count(*) over () as places
    from pulls
    where stream = 'consents' and outcome = 'COMMITTED'

),

shown as (

    select
        listings.place,
        listings.places,
        rows.* exclude (shared_accounts),  -- noqa: RF02
        row(
            rows.entity_id, rows.customer_id, rows.bank_consent_id, rows.bank_identifier,
            rows.consent_type, rows.consent_status, rows.standard_consent_status, rows.created_at,
            rows.status_updated_at, rows.expires_at, rows.transactions_from_at,
            rows.transactions_to_at, rows.permits_identity, rows.permits_accounts,
            rows.permits_balance, rows.permits_transactions, rows.permits_identities,
            rows.permits_scheduled_payments, rows.permits_standing_orders,
            rows.permits_direct_debits, rows.permits_beneficiaries
        ) as told
    from consents_history as rows
    inner join listings on rows.pull_id = listings.pull_id

),

neighbours as (

    select
        *,
        lag(place) over (partition by consent_id order by place) as earlier_place,
        lag(told) over (partition by consent_id order by place) as earlier_told,
        lead(place) over (partition by consent_id order by place) as later_place
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

),

judged as (

    select
        states.*,
        clock.as_of,
        clock.as_of_date,
        states.expires_at <= clock.as_of as is_expired,
        -- An end that the bank or the customer brought about; Lean's sweep of expired ones comes
        -- after their own end.
        states.consent_status in ('REVOKED', 'REJECTED')
        and coalesce(states.status_updated_at < states.expires_at, true) as is_cut_short
    from states
    cross join clock

)

select
    -- ids
    judged.consent_id,
    row_number() over (
        partition by judged.consent_id
        order by judged.since_place
    )::integer as version,
    judged.entity_id,
    judged.customer_id,
    judged.bank_identifier,
    judged.bank_consent_id,

    -- attributes
    judged.consent_type,
    judged.consent_status,
    judged.standard_consent_status,
    case
        when judged.is_absent then 'absent'
        when coalesce(judged.is_cut_short, false) then lower(judged.consent_status)
        when coalesce(judged.is_expired, false) then 'expired'
        when judged.consent_status = 'ACTIVE' then 'active'
        else 'unknown'
    end as state,
    judged.permits_identity,
    judged.permits_accounts,
    judged.permits_balance,
    judged.permits_transactions,
    judged.permits_identities,
    judged.permits_scheduled_payments,
    judged.permits_standing_orders,
    judged.permits_direct_debits,
    judged.permits_beneficiaries,

    -- flags
    judged.is_expired,
    lead(judged.since_place) over (
        partition by judged.consent_id
        order by judged.since_place
    ) is null as is_current,

    -- times
    riyadh_date(judged.expires_at) - judged.as_of_date as days_to_expiry,
    judged.created_at,
    riyadh_date(judged.created_at) as created_date,
    judged.status_updated_at,
    judged.expires_at,
    riyadh_date(judged.expires_at) as expires_date,
    case
        when coalesce(judged.is_cut_short, false) then judged.status_updated_at
        when coalesce(judged.is_expired, false) then judged.expires_at
    end as ended_at,
    judged.transactions_from_at,
    judged.transactions_to_at,
    riyadh_date(judged.transactions_from_at) as transactions_from_date,
    riyadh_date(judged.transactions_to_at) as transactions_to_date,
    listings.asked_at as valid_from,
    lead(listings.asked_at) over (
        partition by judged.consent_id
        order by judged.since_place
    ) as valid_to,
    judged.as_of,

    -- trace
    listings.pull_id
from judged
inner join listings on judged.since_place = listings.place
