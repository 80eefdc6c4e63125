-- Files below some folders that the ledger names, and that are missing or of another size.
--
-- grain: one row per path
with named as (

    select unnest(files) as file
    from pulls
    where files is not null

),

files_there as (

    select
        unnest($paths::varchar[]) as path,
        unnest($sizes::bigint[]) as bytes

)

select
    named.file.path,
    files_there.path is not null as is_there
from named
left join files_there on named.file.path = files_there.path
where
    files_there.bytes is distinct from named.file.bytes
    and list_contains($folders, regexp_extract(named.file.path, '^(.*)/[^/]*/', 1))
order by all
