-- When each of Lean's account ids was listed by its entity; a step of dim_accounts and
-- bridge_account_owners.
--
-- grain:  one row per account id that Lean ever listed
-- key:    account_id
-- stored: view
-- formerly: bridge_account_listings
-- counts: a listing that was found unchanged counts too
-- columns:
--   account_id     Lean's id of the account.
--   first_seen_at  When a listing first had the id, by Lean's clock, UTC.
--   last_seen_at   When a listing last had the id, by Lean's clock, UTC.
-- sample: select first_seen_at, count(*) as ids from int_account_listings group by all
with listings as (

    select
        coalesce(known_at, asked_at) as asked_at,
        last_value(case when outcome = 'COMMITTED' then pull_id end ignore nulls) over (
            partition by parent_id
            order by
                coalesce(known_at, asked_at),
                coalesce(generation, 0),
                pull_tie(generation, pull_id)
        ) as pull_id
    from pulls
    where stream = 'accounts' and outcome in ('COMMITTED', 'UNCHANGED')

)

select
    accounts_history.account_id,
    min(listings.asked_at) as first_seen_at,
    max(listings.asked_at) as last_seen_at
from accounts_history
inner join listings on accounts_history.pull_id = listings.pull_id
group by accounts_history.account_id
