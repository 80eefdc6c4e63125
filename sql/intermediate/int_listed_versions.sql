-- Versions of entities and consents: from which listing to which listing each looked the same. A
-- step of dim_entities and dim_consents.
--
-- grain:  one row per entity or consent, and version
-- key:    stream, listed_id, version
-- stored: table
-- apart:  customer by listed_id
-- formerly: bridge_listed_versions
-- counts: states that did not change from listing to listing are one version; being left out is a
--         version of its own
-- zone:   instants are the times of listings by Lean's clock, UTC
-- columns:
--   stream         entities or consents.
--   listed_id      Id of the entity or the consent.
--   version        Number of the version, from 1.
--   is_absent      Whether the listing left it out.
--   is_current     Whether it is the newest version.
--   valid_from     When a listing first showed it like this, or first left it out.
--   valid_to       When a listing first showed it differently or left it out; null while it is
--                  current.
--   pull_id        Listing that first showed the version, or left it out; see pulls.
--   shown_pull_id  Listing that showed the version's values; for an absent version, the last
--                  listing with values.
-- sample: select stream, max(version) as versions, count(distinct listed_id) as listed
--         from int_listed_versions group by all
with listings as (

    select
        stream,
        pull_id,
        coalesce(known_at, asked_at) as asked_at,
        row_number() over by_age as sequence_no,
        count(*) over (partition by stream) as listing_count
    from pulls
    where stream in ('entities', 'consents') and outcome = 'COMMITTED'
    window by_age as (
        partition by stream
        order by
            coalesce(known_at, asked_at),
            coalesce(generation, 0),
            pull_tie(generation, pull_id)
    )

),

records as (

    select
        'entities' as stream,
        entity_id as listed_id,
        pull_id,
        hash(
            customer_id, bank_identifier, bank_type, status, created_at, updated_at,
            permits_identity, permits_accounts, permits_balance, permits_transactions,
            permits_identities, permits_scheduled_payments, permits_standing_orders,
            permits_direct_debits, permits_beneficiaries
        ) as content
    from entities_history

    union all

    select
        'consents' as stream,
        consent_id as listed_id,
        pull_id,
        hash(
            entity_id, customer_id, bank_consent_id, bank_identifier, consent_type, consent_status,
            standard_consent_status, created_at, status_updated_at, expires_at,
            transactions_from_at, transactions_to_at, permits_identity, permits_accounts,
            permits_balance, permits_transactions, permits_identities, permits_scheduled_payments,
            permits_standing_orders, permits_direct_debits, permits_beneficiaries
        ) as content
    from consents_history

),

neighbours as (

    select
        records.*,
        listings.sequence_no,
        listings.listing_count,
        lag(listings.sequence_no) over by_sequence as earlier_sequence_no,
        lag(records.content) over by_sequence as earlier_content,
        lead(listings.sequence_no) over by_sequence as later_sequence_no
    from records
    inner join listings on records.stream = listings.stream and records.pull_id = listings.pull_id
    window by_sequence as (
        partition by records.stream, records.listed_id
        order by listings.sequence_no
    )

),

states as (

    select
        stream,
        listed_id,
        pull_id as shown_pull_id,
        sequence_no as since_sequence_no,
        false as is_absent
    from neighbours
    where
        earlier_sequence_no is distinct from sequence_no - 1
        or earlier_content is distinct from content

    union all

    select
        stream,
        listed_id,
        pull_id as shown_pull_id,
        sequence_no + 1 as since_sequence_no,
        true as is_absent
    from neighbours
    where sequence_no < listing_count and later_sequence_no is distinct from sequence_no + 1

)

select
    -- ids
    states.stream,
    states.listed_id,
    row_number() over by_sequence as version,

    -- flags
    states.is_absent,
    lead(states.since_sequence_no) over by_sequence is null as is_current,

    -- times
    listings.asked_at as valid_from,
    lead(listings.asked_at) over by_sequence as valid_to,

    -- trace
    listings.pull_id,
    states.shown_pull_id
from states
inner join listings
    on states.stream = listings.stream and states.since_sequence_no = listings.sequence_no
window by_sequence as (
    partition by states.stream, states.listed_id
    order by states.since_sequence_no
)
