-- Which pull covers which days of a real account. If several of Lean's ids mean the same account, a
-- single id covers each day, so that no movement counts twice and none is lost. Ids for which the
-- bank offers the day come first, then ids whose records fit, then the id whose bank was asked
-- last.
--
-- grain:  one row per account, pull and range of UTC days
-- key:    account_key, pull_id, claimed_from
-- stored: by month
-- apart:  account by account_key
-- formerly: bridge_account_claims
-- zone:   claimed_from and claimed_to are UTC days, both inclusive
-- columns:
--   account_id    Lean's id of the account that the pull read.
--   claimed_from  First UTC day of the range.
--   claimed_to    Last UTC day of the range, inclusive.
--   unfit_dates   UTC days of the pull whose records did not fit, so that they are not known; null
--                 where every record fits.
--   offered_from  First UTC day that the bank ever offered for that id; a read of earlier days is
--                 empty and shows nothing. Null where no refresh reported a day.
-- sample: select * from int_covering_pulls where account_key = '…' order by claimed_from
with covering as (

    select
        bridge_accounts.account_key,
        claims.parent_id as account_id,
        claims.month,
        claims.pull_id,
        claims.claimed_from,
        claims.claimed_to,
        claims.unfit_dates,
        coalesce(pulls.known_at, pulls.asked_at) as known_at,
        coalesce(pulls.refreshed_at, pulls.known_at, pulls.asked_at) as bank_asked_at,
        account_depths.offered_from,
        min(claims.parent_id) over (
            partition by bridge_accounts.account_key, claims.month
        ) <> max(claims.parent_id) over (
            partition by bridge_accounts.account_key, claims.month
        ) as is_shared
    from claims
    inner join bridge_accounts on claims.parent_id = bridge_accounts.account_id
    inner join pulls on claims.pull_id = pulls.pull_id
    left join account_depths on claims.parent_id = account_depths.account_id
    where claims.stream = 'transactions'

),

days as (

    select
        account_key,
        account_id,
        month,
        pull_id,
        bank_asked_at,
        known_at,
        unfit_dates,
        offered_from,
        unnest(generate_series(claimed_from, claimed_to, interval 1 day))::date as claimed_on
    from covering
    where is_shared

),

owned as (

    select *
    from days
    qualify
        row_number() over (
            partition by account_key, claimed_on
            order by
                coalesce(claimed_on >= offered_from, true) desc,
                coalesce(list_contains(unfit_dates, claimed_on), false) asc,
                bank_asked_at desc,
                known_at desc,
                account_id desc
        ) = 1

),

intervals as (

    select
        account_key,
        month,
        account_id,
        pull_id,
        claimed_on,
        unfit_dates,
        offered_from,
        claimed_on - row_number() over (
            partition by account_key, month, account_id, pull_id
            order by claimed_on
        )::integer as interval_id
    from owned

)

select
    account_key,
    account_id,
    month,
    pull_id,
    claimed_from,
    claimed_to,
    unfit_dates,
    offered_from
from covering
where not is_shared

union all

select
    account_key,
    account_id,
    month,
    pull_id,
    min(claimed_on) as claimed_from,
    max(claimed_on) as claimed_to,
    unfit_dates,
    offered_from
from intervals
group by account_key, account_id, month, pull_id, unfit_dates, offered_from, interval_id
