"""The keys that real kernels have in the files of cgroup v2, in order: Debian's 6.1.192, 6.12.95 and 7.3.4."""

KERNELS = ("6.1", "6.12", "7.3")

STAT = {
    "6.1": (
        "anon file kernel kernel_stack pagetables sec_pagetables percpu sock vmalloc shmem zswap zswapped "
        "file_mapped file_dirty file_writeback swapcached anon_thp file_thp shmem_thp inactive_anon "
        "active_anon inactive_file active_file unevictable slab_reclaimable slab_unreclaimable slab "
        "workingset_refault_anon workingset_refault_file workingset_activate_anon workingset_activate_file "
        "workingset_restore_anon workingset_restore_file workingset_nodereclaim pgscan pgsteal pgscan_kswapd "
        "pgscan_direct pgsteal_kswapd pgsteal_direct pgfault pgmajfault pgrefill pgactivate pgdeactivate "
        "pglazyfree pglazyfreed zswpin zswpout thp_fault_alloc thp_collapse_alloc"
    ),
    "6.12": (
        "anon file kernel kernel_stack pagetables sec_pagetables percpu sock vmalloc shmem zswap zswapped "
        "file_mapped file_dirty file_writeback swapcached anon_thp file_thp shmem_thp inactive_anon "
        "active_anon inactive_file active_file unevictable slab_reclaimable slab_unreclaimable slab "
        "workingset_refault_anon workingset_refault_file workingset_activate_anon workingset_activate_file "
        "workingset_restore_anon workingset_restore_file workingset_nodereclaim pgdemote_kswapd "
        "pgdemote_direct pgdemote_khugepaged pgpromote_success pgscan pgsteal pgscan_kswapd pgscan_direct "
        "pgscan_khugepaged pgsteal_kswapd pgsteal_direct pgsteal_khugepaged pgfault pgmajfault pgrefill "
        "pgactivate pgdeactivate pglazyfree pglazyfreed swpin_zero swpout_zero zswpin zswpout zswpwb "
        "thp_fault_alloc thp_collapse_alloc thp_swpout thp_swpout_fallback numa_pages_migrated "
        "numa_pte_updates numa_hint_faults"
    ),
    "7.3": (
        "anon file kernel kernel_stack pagetables sec_pagetables percpu sock vmalloc shmem zswap zswapped "
        "zswap_incomp file_mapped file_dirty file_writeback swapcached anon_thp file_thp shmem_thp "
        "inactive_anon active_anon inactive_file active_file unevictable slab_reclaimable slab_unreclaimable "
        "slab workingset_refault_anon workingset_refault_file workingset_activate_anon "
        "workingset_activate_file workingset_restore_anon workingset_restore_file workingset_nodereclaim "
        "pgdemote_kswapd pgdemote_direct pgdemote_khugepaged pgdemote_proactive pgsteal_kswapd pgsteal_direct "
        "pgsteal_khugepaged pgsteal_proactive pgscan_kswapd pgscan_direct pgscan_khugepaged pgscan_proactive "
        "pgrefill pgpromote_success pgscan pgsteal pswpin pswpout pgfault pgmajfault pgactivate pgdeactivate "
        "pglazyfree pglazyfreed swpin_zero swpout_zero zswpin zswpout zswpwb thp_fault_alloc "
        "thp_collapse_alloc thp_swpout thp_swpout_fallback numa_pages_migrated numa_pte_updates "
        "numa_hint_faults"
    ),
}
NUMA_STAT = {
    "6.1": (
        "anon file kernel_stack pagetables sec_pagetables shmem file_mapped file_dirty file_writeback "
        "swapcached anon_thp file_thp shmem_thp inactive_anon active_anon inactive_file active_file "
        "unevictable slab_reclaimable slab_unreclaimable workingset_refault_anon workingset_refault_file "
        "workingset_activate_anon workingset_activate_file workingset_restore_anon workingset_restore_file "
        "workingset_nodereclaim"
    ),
    "6.12": (
        "anon file kernel_stack pagetables sec_pagetables shmem file_mapped file_dirty file_writeback "
        "swapcached anon_thp file_thp shmem_thp inactive_anon active_anon inactive_file active_file "
        "unevictable slab_reclaimable slab_unreclaimable workingset_refault_anon workingset_refault_file "
        "workingset_activate_anon workingset_activate_file workingset_restore_anon workingset_restore_file "
        "workingset_nodereclaim pgdemote_kswapd pgdemote_direct pgdemote_khugepaged pgpromote_success"
    ),
    "7.3": (
        "anon file kernel_stack pagetables sec_pagetables vmalloc shmem file_mapped file_dirty file_writeback "
        "swapcached anon_thp file_thp shmem_thp inactive_anon active_anon inactive_file active_file "
        "unevictable slab_reclaimable slab_unreclaimable hugetlb workingset_refault_anon "
        "workingset_refault_file workingset_activate_anon workingset_activate_file workingset_restore_anon "
        "workingset_restore_file workingset_nodereclaim pgdemote_kswapd pgdemote_direct pgdemote_khugepaged "
        "pgdemote_proactive pgsteal_kswapd pgsteal_direct pgsteal_khugepaged pgsteal_proactive pgscan_kswapd "
        "pgscan_direct pgscan_khugepaged pgscan_proactive pgrefill pgpromote_success"
    ),
}
EVENTS = {
    "6.1": "low high max oom oom_kill oom_group_kill",
    "6.12": "low high max oom oom_kill oom_group_kill",
    "7.3": "low high max oom oom_kill oom_group_kill sock_throttled",
}
SWAP_EVENTS = {
    "6.1": "high max fail",
    "6.12": "high max fail",
    "7.3": "high max fail",
}
CGROUP_STAT = {
    "6.1": "nr_descendants nr_dying_descendants",
    "6.12": (
        "nr_descendants nr_subsys_cpuset nr_subsys_cpu nr_subsys_io nr_subsys_memory nr_subsys_perf_event "
        "nr_subsys_hugetlb nr_subsys_pids nr_subsys_rdma nr_subsys_misc nr_dying_descendants "
        "nr_dying_subsys_cpuset nr_dying_subsys_cpu nr_dying_subsys_io nr_dying_subsys_memory "
        "nr_dying_subsys_perf_event nr_dying_subsys_hugetlb nr_dying_subsys_pids nr_dying_subsys_rdma "
        "nr_dying_subsys_misc"
    ),
    "7.3": (
        "nr_descendants nr_subsys_cpuset nr_subsys_cpu nr_subsys_io nr_subsys_memory nr_subsys_perf_event "
        "nr_subsys_hugetlb nr_subsys_pids nr_subsys_rdma nr_subsys_misc nr_dying_descendants "
        "nr_dying_subsys_cpuset nr_dying_subsys_cpu nr_dying_subsys_io nr_dying_subsys_memory "
        "nr_dying_subsys_perf_event nr_dying_subsys_hugetlb nr_dying_subsys_pids nr_dying_subsys_rdma "
        "nr_dying_subsys_misc"
    ),
}
