-- Banks: what Lean lists, whether their data is available now, and who is connected.
--
-- subject: people and consents
-- grain:  one row per bank
-- key:    bank_identifier
-- stored: table
-- apart:  whole
-- counts: every bank that Lean ever listed or that an entity ever named
-- columns:
--   bank_identifier        Lean's identifier of the bank, as entities carry it.
--   account_types          Kinds of customers that Lean lists it for, sorted: BUSINESS, PERSONAL.
--   is_listed              Whether the newest listing has it.
--   is_paused              Whether its data is switched off, by Lean or by the application's owner.
--   paused_at              When the lake learnt that its data is switched off, by Lean's clock,
--                          UTC.
--   entity_count           Entities that are neither deleted, removed nor absent.
--   customer_count         Customers behind those entities.
--   account_count          Real accounts that were ever shared through it; see dim_accounts.
--   first_listed_at        When a listing first had it, by Lean's clock, UTC.
--   last_listed_at         When a listing last had it, by Lean's clock, UTC.
-- sample: select name, entity_count, account_count, is_paused from dim_banks order by all desc
with named as (

    select bank_identifier
    from banks_history

    union

    select bank_identifier
    from entities_history
    where bank_identifier is not null  -- could not be read

),

newest as (

    select *
    from banks_history
    qualify
        row_number() over (
            partition by bank_identifier
            order by
                coalesce(known_at, asked_at) desc,
                coalesce(generation, 0) desc,
                pull_tie(generation, pull_id) desc,
                account_type asc
        ) = 1

),

listed as (

    select
        bank_identifier,
        min(coalesce(known_at, asked_at)) as first_listed_at,
        max(coalesce(known_at, asked_at)) as last_listed_at
    from banks_history
    group by bank_identifier

),

offered as (

    select
        bank_identifier,
        list(account_type order by account_type) as account_types
    from banks
    group by bank_identifier

),

connected as (

    select
        bank_identifier,
        count(*) as entity_count,
        count(distinct customer_id) as customer_count
    from dim_entities
    where is_current and state not in ('deleted', 'removed', 'absent')
    group by bank_identifier

),

shared as (

    select
        bank_identifier,
        count(distinct account_key) as account_count
    from bridge_accounts
    group by bank_identifier

)

select
    named.bank_identifier,

    -- attributes
    newest.name,
    newest.arabic_name,
    newest.commercial_name,
    newest.commercial_name_arabic,
    newest.country_code,
    newest.swift_code,
    offered.account_types,

    -- counts
    coalesce(connected.entity_count, 0) as entity_count,
    coalesce(connected.customer_count, 0) as customer_count,
    coalesce(shared.account_count, 0) as account_count,

    -- flags
    offered.bank_identifier is not null as is_listed,
    newest.is_mock,
    newest.is_active,
    newest.is_active_for_data,
    newest.is_enabled_for_data,
    paused_banks.bank_identifier is not null as is_paused,

    -- times
    paused_banks.paused_at,
    listed.first_listed_at,
    listed.last_listed_at
from named
left join newest on named.bank_identifier = newest.bank_identifier
left join listed on named.bank_identifier = listed.bank_identifier
left join offered on named.bank_identifier = offered.bank_identifier
left join connected on named.bank_identifier = connected.bank_identifier
left join shared on named.bank_identifier = shared.bank_identifier
left join paused_banks on named.bank_identifier = paused_banks.bank_identifier
