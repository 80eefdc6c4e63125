-- Names of the tables that an analyst should meet first: those of main, without old names.
--
-- grain: one row per table
select table_name as name
from information_schema.tables
where
    table_catalog = 'leanhouse'
    and table_schema = 'main'
    and coalesce(table_comment, '') not like 'The old name of %'
order by name
