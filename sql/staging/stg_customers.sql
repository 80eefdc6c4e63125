-- Customers of the application.
--
-- grain:  one row per customer
-- key:    customer_id
-- stored: view
select customers.*
from customers
