-- Lost pulls whose answers may be kept and which no newer pull of the same read replaced. Reads the
-- temporary view known_lost.
--
-- grain: one row per stream
select
    lost.stream,
    list(distinct lost.pull_id) as pull_ids
from pulls as lost
inner join known_lost as known on lost.pull_id = known.pull_id
where
    known.file <> ''
    and lost.covers is null
    and not exists (
        select 1
        from pulls as newer
        where
            newer.outcome = 'COMMITTED'
            and newer.stream = lost.stream
            and newer.series_id = lost.series_id
            and newer.parent_id = lost.parent_id
            and newer.month is not distinct from lost.month
            and newer.covers is null
    )
group by all
order by all
