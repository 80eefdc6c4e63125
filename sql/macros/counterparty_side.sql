-- Which party of a movement is the other side: debtor, creditor or unknown. It is the party that is
-- not the account itself, whatever the direction. If neither party is known to be the account, it
-- is the receiver of money out and the sender of money in. A party that stands alone on the
-- account's own side is the other side only if its number is known not to be the account's.
-- debtor_is_own and creditor_is_own are null where unknown; they are read only where they decide.
create or replace macro counterparty_side(
    indicator, debtor, debtor_name, debtor_is_own, creditor, creditor_name, creditor_is_own
) as
case indicator
    when 'DEBIT'
        then
            case
                when creditor is null and creditor_name is not null then 'creditor'
                when creditor is not null and not coalesce(creditor_is_own, false) then 'creditor'
                when debtor is not null and not coalesce(debtor_is_own, true) then 'debtor'
                when
                    debtor is null and debtor_name is not null and creditor is not null
                    then 'debtor'
                else 'unknown'
            end
    when 'CREDIT'
        then
            case
                when debtor is null and debtor_name is not null then 'debtor'
                when debtor is not null and not coalesce(debtor_is_own, false) then 'debtor'
                when creditor is not null and not coalesce(creditor_is_own, true) then 'creditor'
                when creditor is null and creditor_name is not null and debtor is not null
                    then 'creditor'
                else 'unknown'
            end
    else
        case
            when
                creditor is not null
                and not coalesce(creditor_is_own, true)
                and case
                    when debtor is not null then coalesce(debtor_is_own, false)
                    else debtor_name is null
                end
                then 'creditor'
            when
                debtor is not null
                and not coalesce(debtor_is_own, true)
                and case
                    when creditor is not null then coalesce(creditor_is_own, false)
                    else creditor_name is null
                end
                then 'debtor'
            else 'unknown'
        end
end;
