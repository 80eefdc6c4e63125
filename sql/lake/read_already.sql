-- What the attempts of a run have read of a stream, without reads that are older than the newest
-- refresh.
--
-- parameters: wanted_stream, run_ids, since_instant
-- grain: one row per read target
with refreshes as (

    select
        entity_id,
        max(finished_at) as refreshed_at
    from refresh_attempts
    where outcome = 'FINISHED'
    group by entity_id

)

select
    pulls.parent_id,
    list(distinct coalesce(pulls.month, '')) as read_months
from pulls
left join refreshes on pulls.entity_id = refreshes.entity_id
where
    pulls.stream = wanted_stream  -- noqa: RF02
    and list_contains(run_ids, pulls.run_id)  -- noqa: RF02
    and pulls.outcome in ('COMMITTED', 'UNCHANGED')
    and pulls.known_at >= since_instant  -- noqa: RF02
    and (refreshes.refreshed_at is null or pulls.known_at >= refreshes.refreshed_at)
group by pulls.parent_id
