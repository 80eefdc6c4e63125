-- Movements as they counted at an instant: each account once, each day from the pull that covered
-- it then.
--
-- parameters: at_instant
-- sample: select currency, sum(signed_amount) as booked from transactions_as_of(now())
--         where status = 'BOOKED' group by all
with covering as (

    select
        bridge_accounts.account_key,
        pulls.parent_id as account_id,
        pulls.claimed_from,
        pulls.claimed_to,
        coalesce(pulls.refreshed_at, pulls.known_at, pulls.asked_at) as bank_asked_at,
        coalesce(pulls.known_at, pulls.asked_at) as known_at,
        min(pulls.parent_id) over (
            partition by bridge_accounts.account_key, pulls.month
        ) <> max(pulls.parent_id) over (
            partition by bridge_accounts.account_key, pulls.month
        ) as is_shared
    from pulls
    inner join bridge_accounts on pulls.parent_id = bridge_accounts.account_id
    where
        pulls.stream = 'transactions'
        and pulls.outcome = 'COMMITTED'
        and coalesce(pulls.known_at, pulls.asked_at) <= at_instant  -- noqa: RF02

),

-- Where several ids of Lean mean the same account, a single id covers each day.
owners as (

    select
        account_key,
        claimed_on,
        arg_max(account_id, (bank_asked_at, known_at, account_id)) as account_id
    from (
        select
            *,
            unnest(generate_series(claimed_from, claimed_to, interval 1 day))::date as claimed_on
        from covering
        where is_shared
    ) as days
    group by account_key, claimed_on

)

select history.* exclude (seen_to_at)  -- noqa: RF02
from fct_transaction_history as history
left join owners
    on
        history.account_key = owners.account_key
        and (history.placed_at at time zone 'UTC')::date = owners.claimed_on
where
    history.change_kind <> 'vanished'
    and history.seen_from_at <= at_instant  -- noqa: RF02
    and coalesce(history.seen_to_at > at_instant, true)  -- noqa: RF02
    and coalesce(owners.account_id = history.account_id, true)
