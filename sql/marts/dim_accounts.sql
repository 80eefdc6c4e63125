-- Real accounts, each once, however many customers share it and however often it was connected.
--
-- subject: people and consents
-- grain:  one row per real account
-- key:    account_key
-- stored: table
-- apart:  account by account_key
-- counts: every account that was ever listed; its attributes are those that were read last
-- columns:
--   currency  Currency, ISO 4217; see currency_code.
--   account_ids        Lean's ids that ever meant the account, sorted.
--   customer_count     Customers who ever shared it.
--   entity_ids         Entities that ever had it, sorted.
--   iban_masked        Last four characters of the IBAN behind asterisks; null where it has no
--                      IBAN.
--   state              open; inactive, where the bank calls it disabled, dormant or the like;
--                      closed; absent, where the newest listing of each of its entities leaves it
--                      out; unknown, where the bank gives no state.
--   closed_date        Riyadh day of the last change of its state, where that is closed.
--   is_joint           Whether the bank names it joint or several customers share it. Null where a
--                      single customer shares it and the bank was not asked for its parties.
--   is_connected       Whether any of its entities has a consent that was active at the lake's
--                      clock.
--   first_seen_at      When a listing first had it, by Lean's clock, UTC.
--   last_seen_at       When a listing last had it, by Lean's clock, UTC; a listing that was found
--                      unchanged counts too.
-- cleared: iban_masked (four of its characters)
-- sample: select bank_identifier, account_sub_type, currency, count(*) as accounts
--         from dim_accounts where state = 'open' group by all order by all
with seen as (

    select
        bridge_accounts.account_key,
        min(listings.first_seen_at) as first_seen_at,
        max(listings.last_seen_at) as last_seen_at
    from int_account_listings as listings
    inner join bridge_accounts on listings.account_id = bridge_accounts.account_id
    group by bridge_accounts.account_key

),

newest as (

    select
        bridge_accounts.account_key,
        bridge_accounts.bank_identifier,
        bridge_accounts.link_quality,
        accounts_history.* exclude (entity_id),  -- noqa: RF02
        iban_of(accounts_history.identifications) as iban
    from accounts_history
    inner join bridge_accounts on accounts_history.account_id = bridge_accounts.account_id
    qualify
        row_number() over (
            partition by bridge_accounts.account_key
            order by
                coalesce(
                    accounts_history.refreshed_at,
                    accounts_history.known_at,
                    accounts_history.asked_at
                ) desc,
                coalesce(accounts_history.known_at, accounts_history.asked_at) desc,
                coalesce(accounts_history.generation, 0) desc,
                pull_tie(accounts_history.generation, accounts_history.pull_id) desc,
                accounts_history.account_id desc
        ) = 1

),

permitted as (

    select distinct entity_id
    from dim_consents
    where is_current and state = 'active'

),

parties as (

    select
        account_id,
        bool_or(coalesce(party_type = 'JOINT', false)) as is_joint
    from identities
    group by account_id

),

shared as (

    select
        bridge_accounts.account_key,
        list_sort(list(distinct bridge_accounts.account_id)) as account_ids,
        list_sort(list(distinct bridge_accounts.entity_id)) as entity_ids,
        count(distinct bridge_accounts.customer_id) as customer_count,
        bool_or(bridge_accounts.is_listed) as is_listed,
        bool_or(permitted.entity_id is not null) as is_connected,
        bool_or(parties.is_joint) as is_joint
    from bridge_accounts
    left join permitted on bridge_accounts.entity_id = permitted.entity_id
    left join parties on bridge_accounts.account_id = parties.account_id
    group by bridge_accounts.account_key

)

select
    -- ids
    newest.account_key,
    shared.account_ids,
    shared.entity_ids,
    newest.bank_identifier,

    -- attributes
    newest.account_type,
    newest.account_sub_type,
    currency_code(newest.currency) as currency,
    newest.description,
    '****' || right(newest.iban, 4) as iban_masked,
    newest.link_quality,
    newest.status,
    case
        when not shared.is_listed then 'absent'
        when newest.status in ('CLOSED', 'DELETED') then 'closed'
        when newest.status = 'ENABLED' then 'open'
        when
            newest.status in (
                'DISABLED', 'PENDING', 'PROFORMA', 'NOT_ACTIVE', 'DORMANT', 'UNCLAIMED',
                'DECEASED', 'SUSPENDED'
            )
            then 'inactive'
        else 'unknown'
    end as state,
    shared.customer_count,

    -- flags
    case when shared.customer_count > 1 then true else shared.is_joint end as is_joint,
    shared.is_connected,

    -- times
    newest.opening_date,
    newest.matures_at,
    case
        when newest.status in ('CLOSED', 'DELETED') then riyadh_date(newest.status_updated_at)
    end as closed_date,
    seen.first_seen_at,
    seen.last_seen_at,

    -- trace
    newest.pull_id
from newest
inner join shared on newest.account_key = shared.account_key
inner join seen on newest.account_key = seen.account_key
