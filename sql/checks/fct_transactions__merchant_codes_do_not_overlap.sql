-- No merchant code lies in two ranges of mcc_categories, and no range ends before it starts.
select
    one.mcc_from,
    one.mcc_to,
    other.mcc_from as other_from
from mcc_categories as one
left join mcc_categories as other
    on
        one.mcc_from < other.mcc_from
        and one.mcc_to >= other.mcc_from
where other.mcc_from is not null or one.mcc_to < one.mcc_from
