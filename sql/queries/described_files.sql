-- Stream, read targets and UTC days of files of data; with $only_missed, without files on which
-- no pull rests that counts, or for which a merged file stands.
--
-- grain: one row per path
with wanted as (

    select
        path,
        regexp_extract(path, '([^/]*)/[^/]*/[^/]*$', 1) as stream,
        regexp_extract(path, '/month=([^/]*)/', 1) as month,
        regexp_extract(path, '([^/]*)[.]parquet$', 1) as batch_id
    from (select unnest($paths) as path) as given

),

merged as materialized (

    select pull_id from merged_pulls(null::varchar[])

)

select
    wanted.path,
    wanted.stream,
    count(distinct pulls.parent_id) as targets,
    min(pulls.claimed_from)::varchar as first_date,
    max(pulls.claimed_to)::varchar as last_date
from wanted
inner join pulls
    on
        wanted.batch_id = pulls.batch_id
        and wanted.stream = pulls.stream
        and (wanted.month = '' or wanted.month = pulls.month)
where
    not $only_missed
    or regexp_matches(wanted.path, '^(raw|quarantine)/')
    or (
        pulls.outcome = 'COMMITTED'
        and pulls.pull_id not in (select merged.pull_id from merged)
    )
group by all
order by all
