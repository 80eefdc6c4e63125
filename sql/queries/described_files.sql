-- Stream, read targets and UTC days of data files. With $only_missed, a file of rows is left out if
-- none of its pulls counts, or if a merged file replaces it.
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
