-- Accounts and months whose rows changed although they should not have. These months were read from
-- the same bank data copy as before, or were no longer open when they were read before. Reads the
-- temporary views old_rows and new_rows, and before, which has the claims as they were.
--
-- grain: one row per account and month
with lookback as (

    select
        unnest($banks::varchar[]) as bank,
        unnest($days::integer[]) as days

),

comparable as (

    select
        before.parent_id as account_id,
        before.month
    from before
    inner join claims
        on
            before.stream = claims.stream
            and before.parent_id = claims.parent_id
            and before.month = claims.month
    inner join pulls on claims.pull_id = pulls.pull_id
    left join lookback on before.bank_identifier = lookback.bank
    where pulls.run_id = $run_id
    group by all
    having
        bool_and(
            before.refreshed_at = pulls.refreshed_at
            or before.refreshed_at::date
            > last_day((before.month || '-01')::date) + coalesce(lookback.days, $usual)
        )

),

old as (

    select
        old_rows.account_id,
        old_rows.transaction_id,
        before.month,
        old_rows.fingerprint
    from old_rows
    inner join before
        on
            old_rows.pull_id = before.pull_id
            and old_rows.placed_at::date between before.claimed_from and before.claimed_to

),

new as (

    select
        account_id,
        transaction_id,
        strftime(placed_at, '%Y-%m') as month,
        fingerprint
    from new_rows

),

compared as (

    select
        coalesce(old.account_id, new.account_id) as account_id,
        coalesce(old.month, new.month) as month,
        count(*) filter (where new.fingerprint is null) as missing,
        count(*) filter (where old.fingerprint is null) as added,
        count(*) filter (where old.fingerprint <> new.fingerprint) as changed
    from old
    full outer join new
        on
            old.account_id = new.account_id
            and old.transaction_id = new.transaction_id
            and old.month = new.month
    group by all

)

select compared.*
from compared
inner join comparable
    on
        compared.account_id = comparable.account_id
        and compared.month = comparable.month
where compared.missing + compared.added + compared.changed > 0
order by compared.account_id, compared.month
