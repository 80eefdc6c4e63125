-- What customers permitted, until when, and how it ended: a row per state that the listings showed.
-- States that did not change from listing to listing share a row.
--
-- subject: people and consents
-- grain:  one row per consent and version
-- key:    consent_id, version
-- stored: table
-- apart:  customer by consent_id
-- counts: expiry is computed from the consent's own end against the lake's clock, because Lean
--         shows it up to a day late and as REVOKED; filter by is_current for one row per consent
-- zone:   instants are UTC, dates are Riyadh days; valid_from and valid_to are the times of
--         listings by Lean's clock, from inclusive, to exclusive
-- columns:
--   version                 Number of the version, from 1.
--   state                   What became of it by the lake's clock, according to this version:
--                           active; expired, because its own end came first; revoked or rejected
--                           before its own end; absent, where the listing left the consent out;
--                           else unknown.
--   is_expired              Whether its own end had passed at the lake's clock; null without an
--                           end.
--   is_current              Whether it is the newest version.
--   days_to_expiry          Riyadh days from the lake's clock to its own end, below zero after it;
--                           null without an end.
--   created_date            Riyadh day on which the consent was given.
--   expires_date            Riyadh day of its own end.
--   ended_at                When it ended, by its own end or before it. Null while it has not
--                           ended, and where Lean does not say when it was revoked.
--   transactions_from_date  Riyadh day of the first instant whose transactions may be read.
--   transactions_to_date    Riyadh day of the last instant whose transactions may be read.
--   valid_from              When a listing first showed it like this, or first left it out if it is
--                           absent.
--   valid_to                When a listing first showed it differently or left it out; null while
--                           it is current.
--   as_of                   The lake's clock that it was compared with.
--   pull_id                 Listing that first showed the version, or left the consent out; see
--                           pulls.
-- sample: select bank_identifier, days_to_expiry, count(*) as consents from dim_consents
--         where is_current and state = 'active' and days_to_expiry <= 30 group by all order by all
with judged as (

    select
        rows.* exclude (pull_id),  -- noqa: RF02
        versions.version,
        versions.is_absent,
        versions.is_current,
        versions.valid_from,
        versions.valid_to,
        versions.pull_id,
        clock.as_of,
        clock.as_of_date,
        rows.expires_at <= clock.as_of as is_expired,
        -- An end by the bank or the customer. Lean revokes expired consents too, but only
        -- after their own end.
        rows.consent_status in ('REVOKED', 'REJECTED')
        and coalesce(rows.status_updated_at < rows.expires_at, true) as is_cut_short
    from int_listed_versions as versions
    inner join consents_history as rows
        on versions.listed_id = rows.consent_id and versions.shown_pull_id = rows.pull_id
    cross join clock
    where versions.stream = 'consents'

)

select
    -- ids
    consent_id,
    version::integer as version,
    entity_id,
    customer_id,
    bank_identifier,
    bank_consent_id,

    -- attributes
    consent_type,
    consent_status,
    standard_consent_status,
    case
        when is_absent then 'absent'
        when coalesce(is_cut_short, false) then lower(consent_status)
        when coalesce(is_expired, false) then 'expired'
        when consent_status = 'ACTIVE' then 'active'
        else 'unknown'
    end as state,
    permits_identity,
    permits_accounts,
    permits_balance,
    permits_transactions,
    permits_identities,
    permits_scheduled_payments,
    permits_standing_orders,
    permits_direct_debits,
    permits_beneficiaries,

    -- flags
    is_expired,
    is_current,

    -- times
    riyadh_date(expires_at) - as_of_date as days_to_expiry,
    created_at,
    riyadh_date(created_at) as created_date,
    status_updated_at,
    expires_at,
    riyadh_date(expires_at) as expires_date,
    case
        when coalesce(is_cut_short, false) then status_updated_at
        when coalesce(is_expired, false) then expires_at
    end as ended_at,
    transactions_from_at,
    transactions_to_at,
    riyadh_date(transactions_from_at) as transactions_from_date,
    riyadh_date(transactions_to_at) as transactions_to_date,
    valid_from,
    valid_to,
    as_of,

    -- trace
    pull_id
from judged
