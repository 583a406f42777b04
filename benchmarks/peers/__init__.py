"""What a site would otherwise run, on the same films and the same machine: a script, Orthanc, DCMTK."""
