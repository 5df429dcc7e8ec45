-- A stand-in for the parts of the Citus extension that pgcore uses: the same names and arguments, the same table, no sharding.
-- Recorded from the extension's documentation of 12.1; needs allow_system_table_mods.
CREATE TABLE pg_catalog.pg_dist_node (
    nodeid serial PRIMARY KEY, groupid int NOT NULL, nodename text NOT NULL, nodeport int NOT NULL,
    noderole text NOT NULL DEFAULT 'primary', nodecluster name NOT NULL DEFAULT 'default', isactive bool NOT NULL DEFAULT true,
    UNIQUE (nodename, nodeport));
CREATE TABLE public.calls (number serial, call text);
CREATE FUNCTION pg_catalog.citus_add_node(host text, port int, groupid int DEFAULT -1, noderole text DEFAULT 'primary') RETURNS int
LANGUAGE sql AS $$
    INSERT INTO public.calls (call) VALUES (format('add %s %s:%s', groupid, host, port));
    INSERT INTO pg_catalog.pg_dist_node (groupid, nodename, nodeport, noderole) VALUES (groupid, host, port, noderole)
    RETURNING nodeid $$;
CREATE FUNCTION pg_catalog.citus_add_secondary_node(host text, port int, primaryhost text, primaryport int) RETURNS int
LANGUAGE sql AS $$
    INSERT INTO public.calls (call) VALUES (format('add secondary %s:%s of %s:%s', host, port, primaryhost, primaryport));
    INSERT INTO pg_catalog.pg_dist_node (groupid, nodename, nodeport, noderole)
    SELECT n.groupid, host, port, 'secondary' FROM pg_catalog.pg_dist_node n WHERE n.nodename = primaryhost AND n.nodeport = primaryport
    RETURNING nodeid $$;
CREATE FUNCTION pg_catalog.citus_remove_node(host text, port int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO public.calls (call) VALUES (format('remove %s:%s', host, port));
    DELETE FROM pg_catalog.pg_dist_node WHERE nodename = host AND nodeport = port $$;
CREATE FUNCTION pg_catalog.citus_update_node(id int, host text, port int, force bool DEFAULT false, lock_cooldown int DEFAULT 10000)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO public.calls (call) VALUES (format('update %s %s:%s %s %s', id, host, port, force, lock_cooldown));
    UPDATE pg_catalog.pg_dist_node SET nodename = host, nodeport = port WHERE nodeid = id $$;
CREATE FUNCTION pg_catalog.citus_set_coordinator_host(host text, port int, noderole text, nodecluster name) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO public.calls (call) VALUES (format('coordinator %s:%s', host, port));
    INSERT INTO pg_catalog.pg_dist_node (groupid, nodename, nodeport) VALUES (0, host, port) $$;
