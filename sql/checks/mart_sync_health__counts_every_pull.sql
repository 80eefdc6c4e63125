-- Pulls, rows and requests are those of the ledger.
select
    ledger.pulls,
    health.pulls as counted
from (
    select
        count(*) as pulls,
        sum(rows) as row_total,
        sum(requests) as request_total
    from pulls
) as ledger
cross join (
    select
        coalesce(sum(pull_count), 0) as pulls,
        sum(row_count) as row_total,
        sum(request_count) as request_total
    from mart_sync_health
) as health
where
    ledger.pulls <> health.pulls
    or ledger.row_total <> health.row_total
    or ledger.request_total <> health.request_total
