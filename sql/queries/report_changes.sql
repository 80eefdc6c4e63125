-- What changed in the day up to an instant and in the day before, for the daily report. A day is
-- 24 hours; instants are of this machine's clock, but for ends of consents.
--
-- grain: one row per kind of change
with kinds as (

    select
        unnest([
            'entities_connected', 'entities_ended', 'accounts_added', 'consents_given',
            'consents_ended', 'movements_restated'
        ]) as change,
        unnest(range(6)) as place

),

changes as (

    select
        'accounts_added' as change,
        first_seen_at as changed_at
    from dim_accounts

    union all

    select
        'entities_connected' as change,
        valid_from as changed_at
    from dim_entities
    where version = 1

    union all

    select
        'entities_ended' as change,
        valid_from as changed_at
    from dim_entities
    where state in ('disabled', 'removed', 'deleted', 'absent')

    union all

    select
        'consents_given' as change,
        valid_from as changed_at
    from dim_consents
    where version = 1

    union all

    select
        'consents_ended' as change,
        ended_at as changed_at
    from dim_consents
    where is_current and state <> 'active'

    union all

    select
        'movements_restated' as change,
        max(seen_at) as changed_at
    from fct_restatements
    where was_booked
    group by account_id, transaction_id, version

)

select
    kinds.change,
    count(*) filter (
        where changes.changed_at > $until::timestamptz - interval 1 day
        and changes.changed_at <= $until::timestamptz
    ) as now,
    count(*) filter (
        where changes.changed_at > $until::timestamptz - interval 2 days
        and changes.changed_at <= $until::timestamptz - interval 1 day
    ) as before
from kinds
left join changes on kinds.change = changes.change
group by kinds.change, kinds.place
order by kinds.place
