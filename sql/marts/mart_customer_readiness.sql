-- Whether a decision about a customer may rest on these tables, and if not, why.
--
-- subject: trust
-- grain:  one row per customer
-- key:    customer_id
-- stored: table
-- apart:  customer by customer_id
-- counts: accounts that the customer shares now, that are neither closed nor absent, and that have
--         an active consent; readiness_rules says what is enough
-- columns:
--   account_keys       These accounts, sorted; see dim_accounts.
--   account_count      Number of these accounts.
--   full_months        Riyadh months in which each of these accounts is known on every day; see
--                      int_customer_months.
--   full_from_month    The first of those months, YYYY-MM; null without a full month.
--   data_through_date  Last Riyadh day that is known completely, of the account where it is
--                      earliest.
--   proved_days        Days of the accounts whose balances are proved by their movements.
--   balance_days       Days of the accounts that balances could prove: days after the first known
--                      balance, earlier days from the first movement on, and all days of an account
--                      without a known balance.
--   reconciled_share   proved_days over balance_days, from 0 to 1, rounded half up to four places;
--                      null without such a day.
--   permissions        What every active consent of the customer covers, in Lean's words, sorted.
--   is_decision_ready  Whether reasons is empty.
--   data_age_days      Days between data_through_date and the Riyadh day of the lake's clock; null
--                      where nothing is known.
--   reasons            Why a decision may not rest on the tables, sorted: data_stale (older than
--                      trust_limits allow), no_account, no_consent, months_short, not_reconciled,
--                      balances_unknown, record_unfit (records of the accounts, of their balances
--                      or of their transactions do not fit), and not_permitted_… for accounts,
--                      balance, identity and transactions. Empty where it may.
--   as_of              The lake's clock.
-- sample: select is_decision_ready, reasons, count(*) as customers from mart_customer_readiness
--         group by all order by all
with held as (

    select
        owners.customer_id,
        owners.account_key
    from bridge_account_owners as owners
    inner join dim_accounts on owners.account_key = dim_accounts.account_key
    where
        owners.is_listed
        and dim_accounts.is_connected
        and dim_accounts.state not in ('closed', 'absent')

),

accounts_held as (

    select
        customer_id,
        list_sort(list(account_key)) as account_keys,
        count(*) as account_count
    from held
    group by customer_id

),

full_months as (

    select
        customer_id,
        count(*) as full_months,
        min(riyadh_month) as full_from_month
    from int_customer_months
    where is_full_month
    group by customer_id

),

known_to as (

    select
        account_key,
        max(covered_to) as covered_to
    from int_account_months
    group by account_key

),

through as (

    select
        held.customer_id,
        min(known_to.covered_to) as data_through_date
    from held
    inner join known_to on held.account_key = known_to.account_key
    group by held.customer_id

),

-- Movements before the first known balance, which nothing proves.
unproved_start as (

    select
        account_key,
        currency,
        min(from_date) as from_date
    from int_balance_intervals
    where reason = 'before_first_balance' and booked_count > 0
    group by account_key, currency

),

proved as (

    select
        held.account_key,
        sum(held.to_date - held.from_date + 1) filter (
            where held.verdict = 'proved'
        ) as proved_days,
        sum(held.to_date - held.from_date + 1) as balance_days
    from int_balance_intervals as held
    left join unproved_start
        on
            held.reason = 'before_first_balance'
            and held.account_key = unproved_start.account_key
            and held.currency = unproved_start.currency
    -- Before the first movement, and on the day of the first balance, there is nothing to prove.
    where
        held.reason is null
        or held.reason not in ('before_first_balance', 'first_balance')
        or held.from_date >= unproved_start.from_date
    group by held.account_key

),

unfit as (

    select distinct held.customer_id
    from held
    inner join bridge_accounts on held.account_key = bridge_accounts.account_key
    inner join claims
        on
            (
                claims.stream in ('balances', 'transactions')
                and bridge_accounts.account_id = claims.parent_id
            )
            or (claims.stream = 'accounts' and bridge_accounts.entity_id = claims.parent_id)
    where claims.is_unfit

),

reconciled as (

    select
        held.customer_id,
        coalesce(sum(proved.proved_days), 0)::bigint as proved_days,
        sum(proved.balance_days)::bigint as balance_days
    from held
    inner join proved on held.account_key = proved.account_key
    group by held.customer_id

),

permitted as (

    select
        customer_id,
        list_filter(
            [
                case when bool_and(coalesce(permits_accounts, false)) then 'accounts' end,
                case when bool_and(coalesce(permits_balance, false)) then 'balance' end,
                case when bool_and(coalesce(permits_beneficiaries, false)) then 'beneficiaries' end,
                case when bool_and(coalesce(permits_direct_debits, false)) then 'direct_debits' end,
                case when bool_and(coalesce(permits_identities, false)) then 'identities' end,
                case when bool_and(coalesce(permits_identity, false)) then 'identity' end,
                case
                    when bool_and(coalesce(permits_scheduled_payments, false))
                        then 'scheduled_payments'
                end,
                case
                    when bool_and(coalesce(permits_standing_orders, false)) then 'standing_orders'
                end,
                case when bool_and(coalesce(permits_transactions, false)) then 'transactions' end
            ],
            lambda one: one is not null
        ) as permissions
    from dim_consents
    where is_current and state = 'active'
    group by customer_id

),

rules as (

    select
        max(least) filter (where rule = 'full_months')::integer as least_months,
        max(least) filter (where rule = 'reconciled_share')::decimal(5, 4) as least_share
    from readiness_rules

),

limits as (

    select max(most) filter (where limit_name = 'data_age_days')::integer as most_age_days
    from trust_limits

),

figures as (

    select
        dim_customers.customer_id,
        coalesce(accounts_held.account_keys, []) as account_keys,
        coalesce(accounts_held.account_count, 0) as account_count,
        coalesce(full_months.full_months, 0) as full_months,
        full_months.full_from_month,
        through.data_through_date,
        coalesce(reconciled.proved_days, 0) as proved_days,
        coalesce(reconciled.balance_days, 0) as balance_days,
        round(
            (reconciled.proved_days / reconciled.balance_days)::decimal(18, 9), 4
        )::decimal(5, 4) as reconciled_share,
        unfit.customer_id is not null as is_unfit,
        permitted.customer_id is not null as is_consented,
        coalesce(permitted.permissions, []) as permissions,
        rules.least_months,
        rules.least_share,
        limits.most_age_days,
        riyadh_date(dim_customers.as_of) - through.data_through_date as data_age_days,
        dim_customers.as_of
    from dim_customers
    cross join rules
    cross join limits
    left join accounts_held on dim_customers.customer_id = accounts_held.customer_id
    left join full_months on dim_customers.customer_id = full_months.customer_id
    left join through on dim_customers.customer_id = through.customer_id
    left join reconciled on dim_customers.customer_id = reconciled.customer_id
    left join permitted on dim_customers.customer_id = permitted.customer_id
    left join unfit on dim_customers.customer_id = unfit.customer_id

),

judged as (

    select
        *,
        list_filter(
            [
                case
                    when account_count > 0 and reconciled_share is null then 'balances_unknown'
                end,
                case when data_age_days > most_age_days then 'data_stale' end,
                case when full_months < least_months then 'months_short' end,
                case when account_count = 0 then 'no_account' end,
                case when not is_consented then 'no_consent' end,
                case
                    when not list_contains(permissions, 'accounts') then 'not_permitted_accounts'
                end,
                case
                    when not list_contains(permissions, 'balance') then 'not_permitted_balance'
                end,
                case
                    when not list_contains(permissions, 'identity') then 'not_permitted_identity'
                end,
                case
                    when not list_contains(permissions, 'transactions')
                        then 'not_permitted_transactions'
                end,
                case when reconciled_share < least_share then 'not_reconciled' end,
                case when is_unfit then 'record_unfit' end
            ],
            lambda one: one is not null
        ) as reasons
    from figures

)

select
    -- ids
    customer_id,
    account_keys,

    -- counts
    account_count,
    full_months,
    full_from_month,
    data_through_date,
    data_age_days,
    proved_days,
    balance_days,
    reconciled_share,
    permissions,

    -- flags
    len(reasons) = 0 as is_decision_ready,
    reasons,

    -- times
    as_of
from judged
