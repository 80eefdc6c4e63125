-- Balances at the start and the end of each month, carried forward and back from the nearest months
-- with a balance; a step of the reconciliation.
--
-- The last balance is the balance that the bank stated when the newest movements were read.
--
-- grain:  one row per account, currency and Riyadh month from the first to the last that is known
-- key:    account_key, currency, riyadh_month
-- stored: table
-- apart:  account by account_key
-- formerly: fct_balance_carries
-- counts: stated balances of type INTERIM_BOOKED; their bank was asked within ten minutes of the
--         instant up to which movements are known
-- zone:   days and months are Riyadh's
-- columns:
--   account_key       The real account; see bridge_accounts.
--   currency          Currency of the amounts, ISO 4217.
--   riyadh_month      Riyadh month as YYYY-MM.
--   from_date         First day of the month that lies in the account's known history.
--   to_date           Last day of the month that lies in the account's known history.
--   balances_before   Possible balances at the month's start by earlier months, in units of
--                     currency; null where no earlier month has a balance.
--   told_before_date  Day of the earlier balance that balances_before rest on.
--   doubts_before     Number of reasons why sums between that day and the month's start may be
--                     incomplete: days that are not known, movements of unknown sign.
--   balances_after    Possible balances at the month's end by later months or the stated balance,
--                     in units of currency; null where neither is known.
--   stated_balance    Balance that the bank stated at the end of the known part of to_date, in
--                     units of currency; only in the last month.
--   stated_pull_id    The pull that brought stated_balance.
--   stated_doubts     The same number as doubts_before, from the last day with a balance to the end
--                     of what is known.
--   is_last_month     Whether no later month is known.
--   tells_balances    Whether a balance is known on any day of the account in this currency.
with ordered as (

    select
        *,
        strptime(riyadh_month || '-01', '%Y-%m-%d')::date as month_start,
        lag(riyadh_month) over by_month is null as is_first,
        lead(riyadh_month) over by_month is null as is_last,
        strptime(lead(riyadh_month) over by_month || '-01', '%Y-%m-%d')::date as next_start
    from int_balance_months
    window by_month as (
        partition by account_key, currency
        order by riyadh_month
    )

),

-- Months of which nothing is known, between months of which something is known.
holes as (

    select
        account_key,
        currency,
        unnest(
            generate_series(
                month_start + interval 1 month, next_start - interval 1 day, interval 1 month
            )
        )::date as month_start
    from ordered
    where next_start > month_start + interval 1 month

),

stated as (

    select
        ordered.account_key,
        ordered.currency,
        arg_max(
            {
                'balance': signed(balances.amount, balances.credit_debit_indicator),
                'pull_id': balances.pull_id
            },
            (
                balances.refreshed_at,
                coalesce(balances.known_at, balances.asked_at),
                coalesce(balances.generation, 0),
                pull_tie(balances.generation, balances.pull_id)
            )
        ) as newest
    from ordered
    inner join bridge_accounts on ordered.account_key = bridge_accounts.account_key
    inner join balances_history as balances
        on
            bridge_accounts.account_id = balances.account_id
            and ordered.currency = currency_code(balances.currency)
            and abs(epoch(balances.refreshed_at) - epoch(ordered.known_to_at)) <= 600
    where ordered.is_last and balances.balance_type = 'INTERIM_BOOKED'
    group by ordered.account_key, ordered.currency

),

months as (

    select
        ordered.account_key,
        ordered.currency,
        ordered.riyadh_month,
        if(ordered.is_first, ordered.from_date, ordered.month_start) as from_date,
        if(ordered.is_last, ordered.to_date, last_day(ordered.month_start)) as to_date,
        ordered.booked_amount,
        ordered.openings,
        ordered.closings,
        ordered.is_last as is_last_month,
        ordered.last_told_on,
        ordered.doubts_before,
        ordered.doubts_after,
        ordered.doubts,
        if(ordered.knows_end, 0, 1) as doubt_of_end,
        case when ordered.is_last then stated.newest end as stated
    from ordered
    left join stated
        on ordered.account_key = stated.account_key and ordered.currency = stated.currency

    union all

    select
        account_key,
        currency,
        strftime(month_start, '%Y-%m') as riyadh_month,
        month_start as from_date,
        last_day(month_start) as to_date,
        0 as booked_amount,
        null as openings,
        null as closings,
        false as is_last_month,
        null as last_told_on,
        null as doubts_before,
        null as doubts_after,
        1 as doubts,
        0 as doubt_of_end,
        null as stated
    from holes

),

running as (

    select
        *,
        (sum(booked_amount) over so_far)::decimal(38, 9) as running_amount,
        sum(doubts + doubt_of_end) over so_far as running_doubts
    from months
    window so_far as (
        partition by account_key, currency
        order by riyadh_month
        rows unbounded preceding
    )

),

-- A normalized balance is a balance less all that was booked before it. It stays the same from
-- month to month as long as no movement is missing.
normalized as (

    select
        *,
        moved_by(closings, -running_amount) as normalized_closings,
        moved_by(openings, booked_amount - running_amount) as normalized_openings,
        (stated['balance'] - running_amount)::decimal(38, 9) as normalized_stated,
        doubts_after + doubt_of_end - running_doubts as normalized_doubts
    from running

),

carried as (

    select
        *,
        last_value(normalized_closings ignore nulls) over before as normalized_before,
        last_value(last_told_on ignore nulls) over before as told_before_date,
        last_value(normalized_doubts ignore nulls) over before as normalized_doubts_before,
        coalesce(
            first_value(normalized_openings ignore nulls) over later,
            [last_value(normalized_stated) over whole]
        ) as normalized_after,
        bool_or(closings is not null) over whole as tells_balances
    from normalized
    window before as (
        partition by account_key, currency
        order by riyadh_month
        rows between unbounded preceding and 1 preceding
    ),
    later as (
        partition by account_key, currency
        order by riyadh_month
        rows between 1 following and unbounded following
    ),
    whole as (
        partition by account_key, currency
        order by riyadh_month
        rows between unbounded preceding and unbounded following
    )

)

select
    -- ids
    account_key,

    -- money
    currency,
    moved_by(normalized_before, running_amount - booked_amount) as balances_before,
    case
        when normalized_after[1] is not null then moved_by(normalized_after, running_amount)
    end as balances_after,
    stated['balance'] as stated_balance,

    -- attributes
    (normalized_doubts_before + running_doubts - doubts - doubt_of_end)::bigint as doubts_before,
    coalesce(
        doubts_after, normalized_doubts_before + running_doubts - doubt_of_end
    )::bigint as stated_doubts,

    -- flags
    is_last_month,
    tells_balances,

    -- times
    from_date,
    to_date,
    told_before_date,
    riyadh_month,

    -- trace
    stated['pull_id'] as stated_pull_id
from carried
