-- Banks whose data Lean or the application's owner has switched off.
--
-- grain:  one row per bank
-- counts: a bank is paused while the newest listing says so. A pull that was refused because the
--         bank is off also pauses it, until a later listing shows it as active. A bank in no
--         listing is not paused
-- columns:
--   bank_identifier  The bank.
--   paused_at        When the lake learnt of it, UTC, by Lean's clock.
with listed as (

    select
        banks.bank_identifier,
        min(
            {
                'at': coalesce(pulls.known_at, pulls.asked_at),
                'made': coalesce(pulls.generation, 0)
            }
        ) as learnt,
        bool_and(
            coalesce(banks.is_active_for_data, true) and coalesce(banks.is_enabled_for_data, true)
        ) as is_active
    from banks
    inner join pulls on banks.pull_id = pulls.pull_id and pulls.stream = 'banks'
    group by banks.bank_identifier

),

refused as (

    select
        bank_identifier,
        max({ 'at': coalesce(known_at, asked_at), 'made': coalesce(generation, 0) }) as learnt
    from pulls
    where outcome = 'FAILED' and code in ('DISABLED_BY_LEAN', 'DISABLED_BY_CLIENT')
    group by bank_identifier

)

select
    listed.bank_identifier,
    case when listed.is_active then refused.learnt['at'] else listed.learnt['at'] end as paused_at
from listed
left join refused on listed.bank_identifier = refused.bank_identifier
where not listed.is_active or refused.learnt > listed.learnt
