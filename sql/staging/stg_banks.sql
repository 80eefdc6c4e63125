-- Banks that customers can connect, as Lean lists them.
--
-- grain:  one row per bank and account type
-- key:    bank_identifier, account_type
-- stored: view
select banks.*
from banks
