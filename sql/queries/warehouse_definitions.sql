-- Definitions of the views and table functions of a published warehouse.
--
-- grain: one row per view or function; several schemas may have the same name
select
    view_name as name,
    sql as definition
from duckdb_views()
where database_name = 'leanhouse' and not internal
union all
select
    function_name as name,
    macro_definition as definition
from duckdb_functions()
where database_name = 'leanhouse' and function_type = 'table_macro' and not internal
