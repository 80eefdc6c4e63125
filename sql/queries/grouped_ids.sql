-- Adds to `ids` those that stand in a row of `groups` with one that is there.
--
-- grain: one row per id
insert into ids
select distinct id
from (
    select unnest([id0, id1, id2, id3]) as id
    from groups
    where id0 in (from ids) or id1 in (from ids) or id2 in (from ids) or id3 in (from ids)
) as grouped
where id is not null and id not in (from ids)
